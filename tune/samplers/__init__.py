"""Which setting a search tries next."""
