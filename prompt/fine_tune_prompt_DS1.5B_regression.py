"""Prompt DeepSeek-R1-Distill-Qwen-1.5B for a property on SAMPL; the embedded LLM where it cannot be had."""

from kflm2.cli import prompt

if __name__ == "__main__":
    prompt.from_command_line(dataset="SAMPL", task="regression", llm="auto")
