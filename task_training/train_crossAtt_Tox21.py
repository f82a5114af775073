"""Tokens and atoms attend to each other, with descriptors, on Tox21: active in 12 toxicity assays."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="Tox21", model="crossAtt")
