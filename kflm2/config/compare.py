"""Every setting of a comparison. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from kflm2.config.base import StageConfig
from kflm2.data.parts import SplitKind
from kflm2.errors import SettingError

Baseline = Literal["mean", "knn", "forest", "xgboost", "svm", "minimol", "chemprop", "chemprop-rdkit"]


@dataclass(frozen=True)
class CompareConfig(StageConfig):
    """What is compared with what."""

    results: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]FOLDER")] = ()
    """Folders of results, of a model (results/SAMPL/crossAtt) or of a dataset (results/SAMPL), of one dataset or
    several; all runs that are paired must have the same data and the same splits."""
    practical: tuple[str, ...] = ()
    """The smallest difference that matters to you, in the metric's unit: give it before you see any metric. For several
    datasets NAME=VALUE each, or one value for all."""
    metric: Annotated[str | None, tyro.conf.arg(aliases=["--figure"])] = None
    """What is compared, on the test parts; default RMSE (of several targets, whose units may differ, scaled RMSE), for
    classes ROC-AUC."""
    split: SplitKind | None = None
    """Which runs; default the only kind there is."""
    baselines: tuple[Baseline, ...] = ()
    """Run these on the same splits too, with the same inner folds where one of the models has them, and save
    their results beside the models': mean, knn (mean of the five most similar), on RDKit and Morgan descriptors forest
    (random forest), xgboost or svm; minimol (the mean of svm and of one on MiniMol's fingerprints); and by --chemprop
    chemprop or chemprop-rdkit (with RDKit's descriptors)."""
    chemprop: Path | None = None
    """Path of the command of chemprop 2, in whatever environment it is installed; without a baseline of its name,
    chemprop is run."""
    predictions: tuple[str, ...] = ()
    """NAME=FILE: predictions of another program for the same test parts, a CSV with the columns seed, row, y_pred."""
    published: Path | None = None
    """CSV of published runs, with the columns method, dataset, split, metric, run, value; shown, but not paired."""
    out: Path = field(default_factory=lambda: Path("results/compare"))
    """Folder for tables and pictures, one a dataset."""

    POSITIONAL: ClassVar = ("results",)
    OLD_NAMES: ClassVar = {"metric": "figure"}

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        if not self.results:
            raise SettingError("give folders of results to compare, such as results/SAMPL/crossAtt")
        if self.chemprop is None and (named := [name for name in self.baselines if name.startswith("chemprop")]):
            raise SettingError(f"baseline {named[0]}: say with --chemprop where its command is")
        if not self.practical:
            raise SettingError(
                "say with --practical, before any metric is read, from which difference on it matters to you: 0.1, or"
                " SAMPL=0.2 Delaney=0.1"
            )
        for word in self.practical:
            self._number(word)

    def practical_of(self, dataset: str) -> float:
        """The smallest difference that matters.

        Raises:
            SettingError: none was given for this dataset.
        """
        differences = dict(self._number(word) for word in self.practical)
        if dataset not in differences and None not in differences:
            raise SettingError(f"practical names no difference for {dataset}")
        return differences.get(dataset, differences.get(None, 0.0))

    @staticmethod
    def _number(word: str) -> tuple[str | None, float]:
        name, equals, value = word.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            raise SettingError(f"practical {word!r}: {value!r} is no difference; give a number, 0 or more")
        return (name if equals else None), number
