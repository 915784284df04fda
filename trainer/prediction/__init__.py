"""Images from new EEG: the pipeline, what it is loaded from and saved as."""
