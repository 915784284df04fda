"""One trial of a search."""
