"""The files of a data set: dataset.json, tables, tars, encoded EEG."""
