"""Compare methods on the same runs."""
