"""Recordings of every supported form: one file per source, and the registry that lists them."""
