"""What all miners of triplets share: options, class layout, global batch."""
