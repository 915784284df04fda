"""Samplers: what decides which setting a search tries next."""
