"""Datasets, molecules and splits; rows are rejected only here."""
