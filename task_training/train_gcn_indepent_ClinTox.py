"""Graph network alone, on ClinTox: failed a clinical trial for toxicity."""

from kflm2.cli import train

if __name__ == "__main__":
    train.from_command_line(dataset="ClinTox", model="gcn_indepent")
