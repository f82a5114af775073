"""Which molecules, and how they are split."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kflm2.data.datasets import DATASETS, Task
from kflm2.data.parts import SplitKind, check_fractions
from kflm2.errors import SettingError, one_of


@dataclass(frozen=True)
class TableConfig:
    """Which molecules, and how they are split."""

    dataset: str | None = None
    """A dataset of the registry."""
    csv: Path | None = None
    """Or a table of your own, with a header."""
    smiles_column: str | None = None
    """Its column of SMILES; default smiles."""
    target_columns: tuple[str, ...] = ()
    """Its columns to predict; a blank cell is a missing label. With --dataset, some of the dataset's own."""
    task: Task | None = None
    """What its targets are; classes are 0 and 1. Default regression."""
    limit: int | None = None
    """Read the first rows only, of each file where there are several; default all."""
    standardize: Literal["none", "parent", "tautomer"] = "none"
    """none keeps molecules as written; parent takes the largest organic fragment, uncharged; tautomer its canonical
    tautomer too."""
    deduplicate: bool = False
    """One row a structure: mean of the targets; classes that contradict each other are dropped."""
    split: SplitKind | None = None
    """random; scaffold: no Bemis-Murcko scaffold in two parts, balanced as in D-MPNN; scaffold_moleculenet: the largest
    scaffolds to train, one split for all seeds; cluster: no cluster of similar molecules in two parts; given: by
    --split-column or the dataset's own files; cv5x5: five-fold cross-validation five times over. Default given where
    there are given parts, else random."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, valid and test."""
    split_column: str | None = None
    """Column of the table that says train, valid, test, or test_NAME for several test sets; where it names no valid,
    that is drawn from train."""
    seed: int = 0
    """First seed, of split and weights."""
    out: Path = field(default_factory=lambda: Path("results"))
    """Folder of results."""

    def check_table(self) -> None:
        """Refuse values that cannot work."""
        if (self.dataset is None) == (self.csv is None):
            raise SettingError("give either --dataset, a name of the registry, or --csv, a table of your own")
        if self.csv is not None and not self.target_columns:
            raise SettingError("--csv needs --target-columns, the columns to predict")
        check_fractions(self.fractions)
        if self.split_column is not None and self.split not in (None, "given"):
            raise SettingError(f"--split-column gives the split; it does not go with --split {self.split}")
        if len(set(self.target_columns)) < len(self.target_columns):
            raise SettingError(f"a target is asked for twice: {', '.join(self.target_columns)}")
        if self.dataset is not None:
            one_of("dataset", self.dataset, tuple(DATASETS))
            own = DATASETS[self.dataset].with_targets(self.target_columns)
            for name in ("kind", "smiles_column"):
                if getattr(self, name) not in (None, getattr(own, name)):
                    raise SettingError(f"{name} of {self.dataset} is {getattr(own, name)}, not {getattr(self, name)}")
        if self.split == "given" and self.split_kind_by_default != "given":
            raise SettingError("--split given needs --split-column, the column that says train, valid or test")
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"limit is {self.limit}; it must be at least 1")
        if self.seed < 0:
            raise SettingError(f"seed is {self.seed}; it must be at least 0")

    @property
    def resolved_task(self) -> Task:
        """What the targets are."""
        return DATASETS[self.dataset].task if self.dataset else self.task or "regression"

    @property
    def split_kind_by_default(self) -> SplitKind:
        """Given where a column or the dataset's files say what is for training and what for testing, else random."""
        given = self.split_column is not None or (self.dataset is not None and DATASETS[self.dataset].brings_tests)
        return "given" if given else "random"

    @property
    def split_kind(self) -> SplitKind:
        """The split asked for, else the default one."""
        return self.split or self.split_kind_by_default
