"""Which molecules are read, and how they are split."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro

from kflm2.config.base import StageConfig, check_at_least
from kflm2.data.datasets import DATASETS, Task
from kflm2.data.parts import CROSS_VALIDATIONS, FOLDS, REPEATS, SplitKind, check_fractions
from kflm2.errors import SettingError, one_of


@dataclass(frozen=True)
class DataConfig(StageConfig):
    """Which molecules."""

    dataset: str | None = None
    """A dataset of the registry."""
    csv: Path | None = None
    """Or a table of your own: .csv or .xlsx with a header, or .sdf, whose properties are its columns; .csv.gz and the
    like too, and an address such as https://host/table.csv."""
    smiles_column: str | None = None
    """Its column of SMILES; default smiles, or the only one with this word in its name."""
    target_columns: tuple[str, ...] = ()
    """Its columns to predict; a blank cell is a missing label, and >10 a bound, which training takes into account. With
    --dataset, some of the dataset's own."""
    qualifier_columns: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--qualifier-column"])] = ()
    """Its columns of qualifiers (>, <, = ...), one for each target in their order, where they do not stand before the
    numbers."""
    weight_column: str | None = None
    """Its column of weights in training, 0 or more; metrics count every label alike."""
    feature_columns: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--feature-column"])] = ()
    """Its columns that are read beside the structure, such as pH, temperature or assay: numbers, or else categories.
    They join as a further view, covariates, and predictions need them too."""
    task: Annotated[Task | None, tyro.conf.arg(aliases=["--kind"])] = None
    """What its targets are; classes are 0 and 1, or two words. Default classification where all have two such values,
    else regression."""
    limit: int | None = None
    """Read the first rows only, of each file where there are several; default all."""
    standardize: Literal["canonical", "none", "parent", "tautomer"] = "canonical"
    """canonical: RDKit's canonical SMILES of every molecule, so that it does not matter how it is written; none: SMILES
    as written; parent: the largest organic fragment, uncharged; tautomer: its canonical tautomer too."""
    deduplicate: bool = False
    """One row a structure: mean of the targets; classes that contradict each other are dropped."""

    GROUP: ClassVar = "data"
    ADDRESSES: ClassVar = ("csv",)


@dataclass(frozen=True)
class SplitConfig(StageConfig):
    """How molecules are split."""

    split: SplitKind | None = None
    """random; scaffold: no Bemis-Murcko scaffold in two parts, balanced as in D-MPNN; scaffold_moleculenet: the largest
    scaffolds to train, one split for all seeds; cluster: no cluster of similar molecules in two parts; given: by
    --split-column or the dataset's own files; cv5x5: five-fold cross-validation five times over; scaffold_cv5x5 and
    cluster_cv5x5: the same with whole scaffolds or clusters, so that every molecule is tested in every repeat. Default
    given where there are given parts, else random."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Fractions of train, valid and test."""
    split_column: str | None = None
    """Column of the table that holds train, valid, test, or test_NAME for several test sets; where it names no valid,
    that is drawn from train."""
    seed: int = 0
    """First seed, of split and weights."""

    GROUP: ClassVar = "split"


@dataclass(frozen=True)
class OutputConfig(StageConfig):
    """Where results go."""

    out: Path = field(default_factory=lambda: Path("results"))
    """Folder of results."""

    GROUP: ClassVar = "output"


@dataclass(frozen=True)
class TableConfig(OutputConfig, SplitConfig, DataConfig):
    """Which molecules, how they are split, and where results go: what every stage that reads a table takes."""

    OLD_NAMES: ClassVar[dict[str, str]] = {"task": "kind"}
    CSV_REPLACES_DATASET: ClassVar[bool] = False
    """Whether --csv takes the place of a script's dataset, rather than contradict it."""

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings from the given values, else the defaults; not yet checked."""
        if cls.CSV_REPLACES_DATASET and values.get("csv") is not None:
            values = {**values, "csv": Path(values["csv"]), "dataset": None}
        return super().of(**values)

    def completed(self) -> Self:
        """The same settings with the column of SMILES and the task of a user's table, where they are left open.

        Raises:
            KFLM2Error: the table cannot be read, a column is not there, or it is not clear which is meant.
        """
        if self.csv is None or self.dataset is not None:
            return self
        from kflm2.data.columns import find_columns  # it imports numpy

        split = [self.split_column] if self.split_column is not None else []
        smiles, task = find_columns(
            self.csv,
            self.smiles_column,
            self.target_columns,
            [*self.label_columns, *split, *self.feature_columns],
            self.task,
        )
        return replace(self, smiles_column=smiles, task=task)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that say more about labels: qualifiers and weights."""
        return (*self.qualifier_columns, *(() if self.weight_column is None else (self.weight_column,)))

    def check(self) -> None:
        """Refuse values that cannot work."""
        if (self.dataset is None) == (self.csv is None):
            raise SettingError("give either --dataset, a name of the registry, or --csv, a table of your own")
        if self.csv is not None and not self.target_columns:
            raise SettingError("--csv needs --target-columns, the columns to predict")
        self._check_labels()
        self._check_features()
        check_fractions(self.fractions)
        if self.split_column is not None and self.split not in (None, "given"):
            raise SettingError(f"--split-column gives the split; it does not go with --split {self.split}")
        if len(set(self.target_columns)) < len(self.target_columns):
            raise SettingError(f"a target is asked for twice: {', '.join(self.target_columns)}")
        if self.dataset is not None:
            one_of("dataset", self.dataset, tuple(DATASETS))
            dataset = DATASETS[self.dataset].with_targets(self.target_columns)
            for name in ("task", "smiles_column"):
                expected = getattr(dataset, name)
                if getattr(self, name) not in (None, expected):
                    raise SettingError(f"{name} of {self.dataset} is {expected}, not {getattr(self, name)}")
        if self.split == "given" and self.default_split != "given":
            raise SettingError("--split given needs --split-column, the column that says train, valid or test")
        check_at_least(self, 1, "limit")
        check_at_least(self, 0, "seed")

    def _check_labels(self) -> None:
        if self.csv is None and self.label_columns:
            raise SettingError("--qualifier-columns and --weight-column are columns of a table of your own (--csv)")
        if not self.qualifier_columns:
            return
        if len(self.qualifier_columns) != len(self.target_columns):
            raise SettingError(
                f"--qualifier-columns names {len(self.qualifier_columns)} columns, and there are"
                f" {len(self.target_columns)} targets"
            )
        if self.resolved_task == "classification":
            raise SettingError("--qualifier-columns goes with numbers, and the targets are classes")

    def _check_features(self) -> None:
        if self.csv is None and self.feature_columns:
            raise SettingError("--feature-columns are columns of a table of your own (--csv)")
        if len(set(self.feature_columns)) < len(self.feature_columns):
            raise SettingError(f"a feature is named twice: {', '.join(self.feature_columns)}")
        others: dict[str | None, str] = {self.split_column: "the split", self.smiles_column: "the SMILES"}
        others.update(dict.fromkeys(self.label_columns, "qualifiers or weights"))
        others.update(dict.fromkeys(self.target_columns, "a target"))
        if name := next((name for name in self.feature_columns if name in others), None):
            raise SettingError(f"--feature-columns: {name!r} holds {others[name]}")

    def check_seeds(self, runs: int) -> None:
        """Refuse seeds that a cross-validation does not have."""
        if self.split in CROSS_VALIDATIONS and self.seed + runs > FOLDS * REPEATS:
            raise SettingError(f"{self.split} has the seeds 0 to {FOLDS * REPEATS - 1}; --seed and --runs leave them")

    @property
    def resolved_task(self) -> Task:
        """What the targets are."""
        return DATASETS[self.dataset].task if self.dataset else self.task or "regression"

    @property
    def default_split(self) -> SplitKind:
        """Given where a column or the dataset's files say what is for training and what for testing, else random."""
        given = self.split_column is not None or (self.dataset is not None and DATASETS[self.dataset].brings_tests)
        return "given" if given else "random"

    @property
    def resolved_split(self) -> SplitKind:
        """The split asked for, else the default one."""
        return self.split or self.default_split
