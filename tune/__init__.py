"""Searches over settings with Ray Tune: they see the validation part only, and end in a recipe."""
