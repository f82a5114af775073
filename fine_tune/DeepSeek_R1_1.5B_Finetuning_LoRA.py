"""Fine-tune DeepSeek-R1-Distill-Qwen-1.5B on SMILES by LoRA, with CUDA where it can be had; else the embedded LLM."""

from kflm2.cli import finetune

if __name__ == "__main__":
    finetune.from_command_line(llm="auto")
