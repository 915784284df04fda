"""Writing a data set: preprocessing, shards, resuming after an interruption."""
