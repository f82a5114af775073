"""Predictions by a saved model."""
