"""The recipe: a run's complete configuration."""
