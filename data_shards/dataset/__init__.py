"""An open data set: its index, stimuli and latents; joining, sealing, verifying and auditing data sets."""
