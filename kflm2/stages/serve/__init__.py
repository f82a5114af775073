"""A page for a browser: predictions by a saved model."""
