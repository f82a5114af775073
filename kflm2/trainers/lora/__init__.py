"""Stage 1: LoRA."""
