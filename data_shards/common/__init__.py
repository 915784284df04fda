"""What every room of data_shards uses: errors, files, progress, checksums, permutations."""
