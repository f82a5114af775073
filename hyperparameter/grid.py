"""Try every combination of a grid of settings, on SAMPL with combinedAtt unless told another.

The grid is grid.toml in this folder where there is one, else the package's own (kflm2/resources/grid.toml).
"""

from kflm2.cli import tune

if __name__ == "__main__":
    tune.from_command_line(dataset="SAMPL", model="combinedAtt", sampler="grid")
