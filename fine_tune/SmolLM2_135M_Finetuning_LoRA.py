"""Teach chemistry by LoRA to SmolLM2-135M, the embedded LLM."""

from kflm2.cli import finetune

if __name__ == "__main__":
    finetune.from_command_line(llm="SmolLM2_135M")
