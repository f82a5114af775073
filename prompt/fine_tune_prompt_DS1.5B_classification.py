"""Prompt DeepSeek-R1-Distill-Qwen-1.5B for a class on BACE; the embedded LLM where it cannot be had."""

from kflm2.cli import prompt

if __name__ == "__main__":
    prompt.from_command_line(dataset="BACE", task="classification", llm="auto")
