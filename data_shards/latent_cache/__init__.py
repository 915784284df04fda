"""Computing the latents of a data set, once each."""
