"""Hold methods against each other."""
