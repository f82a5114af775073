"""Prompt an LLM for a class on BACE, fine-tuned by unsloth with CUDA where it is installed."""

from kflm2.cli import prompt

if __name__ == "__main__":
    prompt.from_command_line(dataset="BACE", task="classification", llm="auto", unsloth=True)
