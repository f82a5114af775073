"""Concatenation, on BBBP: crosses the blood-brain barrier."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="BBBP", model="combined")
