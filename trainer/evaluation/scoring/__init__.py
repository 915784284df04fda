"""What images are scored with: the networks, the true stimuli as these see them, and the settings."""
