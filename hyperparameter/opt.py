"""Search for settings by a Parzen estimator (TPE), on SAMPL with combinedAtt unless told another.

The search space is space.toml in this folder where there is one, else the package's own (kflm2/resources/space.toml).
"""

from kflm2.cli import tune

if __name__ == "__main__":
    tune.from_command_line(dataset="SAMPL", model="combinedAtt", sampler="tpe")
