"""Tokens and atoms attend to each other, with descriptors, on SIDER: side effects in 27 organ classes."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="SIDER", model="crossAtt")
