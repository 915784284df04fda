"""Searches over settings with Ray Tune. They read the validation split only, and their result is a recipe."""
