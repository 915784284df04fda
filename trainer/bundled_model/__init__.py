"""The small latent diffusion model that ships with neuroimagen, and how it is made."""
