"""Search hyperparameter/space.toml by a Parzen estimator (TPE), on SAMPL with combinedAtt unless told another."""

from kflm2.cli.stages import tune

if __name__ == "__main__":
    tune.from_command_line(dataset="SAMPL", model="combinedAtt", sampler="tpe")
