"""Audit of a dataset: rejected rows, duplicates, leakage, similarity of test and train."""
