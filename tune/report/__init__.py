"""The result of a search, and its page."""
