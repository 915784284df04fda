"""Recordings to shards to batches: sources, writer, index, plan, fetch, latents, verification."""
