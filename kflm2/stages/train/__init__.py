"""Stage 2: train and measure a pipeline."""
