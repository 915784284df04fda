"""The training loop and what it stands on: checkpoints, process group, validation, samples."""
