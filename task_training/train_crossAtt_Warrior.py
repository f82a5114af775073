"""Tokens and atoms attend to each other, with descriptors, on Warrior: pKa."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="Warrior", model="crossAtt")
