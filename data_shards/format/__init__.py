"""What lies on disk: dataset.json, tables, tars, encoded EEG."""
