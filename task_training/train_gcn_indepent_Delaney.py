"""Graph network alone, on Delaney: solubility in water, log mol/L."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="Delaney", model="gcn_indepent")
