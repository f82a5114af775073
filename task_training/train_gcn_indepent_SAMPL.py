"""Graph network alone, on SAMPL: hydration free energy, kcal/mol."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="SAMPL", model="gcn_indepent")
