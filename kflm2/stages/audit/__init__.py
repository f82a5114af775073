"""What makes a dataset doubtful."""
