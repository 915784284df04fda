"""What every way of mining triplets shares: options, class layout, global batch."""
