"""Images from conditions, through diffusers' pipelines: every family of latent diffusion models that is supported."""
