"""Fine-tune ChemDFM-v1.5-8B on SMILES by LoRA."""

from kflm2.cli import finetune

if __name__ == "__main__":
    finetune.from_command_line(llm="ChemDFM")
