"""Tokens and atoms attend to each other, with descriptors, on BACE: inhibits beta-secretase 1."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="BACE", model="crossAtt")
