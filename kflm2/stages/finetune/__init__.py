"""Stage 1: fine-tune an LLM on SMILES."""
