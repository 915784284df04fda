"""Networks, stages, the one training loop, reconstruction, evaluation, report."""
