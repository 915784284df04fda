"""A simulated study: forward model, heads, drawn stimuli, best achievable accuracy, files."""
