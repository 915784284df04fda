"""HTML pages, tables and plots of finished runs and of data sets."""
