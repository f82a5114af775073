"""Stage 3: prompt the LLM itself."""
