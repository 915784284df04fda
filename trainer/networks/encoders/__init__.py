"""EEG encoders: one file for each."""
