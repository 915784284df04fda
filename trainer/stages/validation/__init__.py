"""What stages measure on the validation split: figures, segment by segment, and for classes without training."""
