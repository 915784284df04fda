"""A recipe for given data and a model folder."""
