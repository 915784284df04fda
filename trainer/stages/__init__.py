"""Training stages: one module each."""
