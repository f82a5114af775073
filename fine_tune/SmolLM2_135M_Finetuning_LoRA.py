"""Fine-tune SmolLM2-135M, the embedded LLM, on SMILES by LoRA."""

from kflm2.cli import finetune

if __name__ == "__main__":
    finetune.from_command_line(llm="SmolLM2_135M")
