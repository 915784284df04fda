"""Published data sets whose files list their segments: one file a source, on the columns that they have in common."""
