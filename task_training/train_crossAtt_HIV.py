"""Tokens and atoms attend to each other, with descriptors, on HIV: inhibits HIV replication."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="HIV", model="crossAtt")
