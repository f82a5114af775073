"""Metrics, statistics and uncertainty: arrays in, numbers out."""
