"""From an open data set to batches: plan, reader, prefetch, webdataset source."""
