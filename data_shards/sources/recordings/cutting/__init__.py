"""From a recording to its segments: which can be cut, and their samples."""
