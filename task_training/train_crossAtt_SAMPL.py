"""Tokens and atoms attend to each other, with descriptors, on SAMPL: hydration free energy, kcal/mol."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="SAMPL", model="crossAtt")
