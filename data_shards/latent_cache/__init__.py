"""Computing the latents of a data set's images and captions once each."""
