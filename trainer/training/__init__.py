"""The training loop and what it stands on: engines, checkpoints, process group."""
