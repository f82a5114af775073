"""Stage 1: teach an LLM chemistry."""
