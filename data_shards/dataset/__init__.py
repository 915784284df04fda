"""An open data set: index, stimuli, latents; verifying and auditing it."""
