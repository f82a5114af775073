"""Fine-tune DeepSeek-R1-Distill-Llama-8B on SMILES by LoRA."""

from kflm2.cli import finetune

if __name__ == "__main__":
    finetune.from_command_line(llm="DS_8B")
