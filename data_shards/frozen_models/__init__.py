"""Frozen encoders of stimuli and captions, and what a model folder says about itself."""
