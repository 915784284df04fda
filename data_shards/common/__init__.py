"""What every folder of data_shards uses: errors, files, progress, checksums, permutations, registries."""
