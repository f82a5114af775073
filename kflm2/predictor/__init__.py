"""A trained model to keep, to give away, and to predict with."""
