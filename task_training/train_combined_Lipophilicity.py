"""Concatenation, on Lipophilicity: log D at pH 7.4."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="Lipophilicity", model="combined")
