"""Recordings as files: where they are, what their headers say, and where they are continuous."""
