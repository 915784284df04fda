"""Retrieval of the stimulus from the EEG alone: by ridge regression, and by the alignment stage."""
