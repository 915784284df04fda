"""A trial of a search: what runs it, and what its result is worth."""
