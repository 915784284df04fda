"""Readers of files that others made: what they hold is checked, and nothing in them is executed."""
