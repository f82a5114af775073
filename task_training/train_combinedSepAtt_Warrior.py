"""Attention over tokens and over atoms, concatenated, on Warrior: pKa."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="Warrior", model="combinedSepAtt")
