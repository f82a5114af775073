"""Stage 1: LoRA fine-tuning."""
