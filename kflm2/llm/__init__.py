"""Large language models: registry, files, loading, hidden states and prompting."""
