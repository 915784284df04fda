"""Metrics: one file per metric, or per family that shares its computation. registry.py names all of them."""
