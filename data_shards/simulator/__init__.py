"""A simulated study: forward model, head model, drawn stimuli, best achievable accuracy."""
