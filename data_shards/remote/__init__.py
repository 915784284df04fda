"""Data sets behind a URL: requests, ranges, the node's block cache."""
