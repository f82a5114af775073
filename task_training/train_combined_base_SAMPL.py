"""Embedding DNN, LLM not fine-tuned, on SAMPL: hydration free energy, kcal/mol."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="SAMPL", model="combined_base")
