"""Report: one HTML page about the results of all methods."""
