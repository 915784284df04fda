"""The headline of a run: which condition it is, and how it is chosen on validation."""
