"""Concatenation, on HIV: inhibits HIV replication."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="HIV", model="combined")
