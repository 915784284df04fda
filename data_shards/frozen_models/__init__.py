"""Frozen networks that encode images and captions, the kinds of latent they make, and what a model folder holds."""
