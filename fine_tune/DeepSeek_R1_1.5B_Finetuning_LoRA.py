"""Teach chemistry by LoRA to DeepSeek-R1-Distill-Qwen-1.5B with CUDA where it can be had, else the embedded LLM."""

from kflm2.cli import finetune

if __name__ == "__main__":
    finetune.from_command_line(llm="auto")
