"""Try every combination of hyperparameter/grid.toml, on SAMPL with combinedAtt unless told another."""

from kflm2.cli.stages import tune

if __name__ == "__main__":
    tune.from_command_line(dataset="SAMPL", model="combinedAtt", sampler="grid")
