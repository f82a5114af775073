"""Large language models: which there are, where their files are, how they are loaded and read."""
