"""Attention over tokens and over atoms, concatenated, on Tox21: active in 12 toxicity assays."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="Tox21", model="combinedSepAtt")
