"""Teach chemistry by LoRA to ChemDFM-v1.5-8B."""

from kflm2.cli import finetune

if __name__ == "__main__":
    finetune.from_command_line(llm="ChemDFM")
