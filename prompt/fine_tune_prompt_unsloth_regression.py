"""Prompt an LLM for a property on SAMPL, fine-tuned by unsloth with CUDA where it is installed."""

from kflm2.cli import prompt

if __name__ == "__main__":
    prompt.from_command_line(dataset="SAMPL", task="regression", llm="auto", unsloth=True)
