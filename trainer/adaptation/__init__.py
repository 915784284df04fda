"""A new subject in minutes: what a trained run gains from a few minutes of the subject's own recordings."""
