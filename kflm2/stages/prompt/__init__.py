"""Stage 3: ask the LLM itself."""
