"""Where recordings come from: one file for each source."""
