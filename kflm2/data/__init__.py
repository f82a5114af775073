"""Datasets, molecules and splits: the only room that rejects rows."""
