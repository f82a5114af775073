"""Every setting of a distillation. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from kflm2.config.base import StageConfig, check_at_least
from kflm2.errors import SettingError


@dataclass(frozen=True)
class DistillConfig(StageConfig):
    """Which student learns what from whom."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = Path("model")
    """Folder of the teacher, which `kflm2 train --save` wrote."""
    save: Path | None = None
    """Folder in which the student is saved, for kflm2 predict."""
    again: bool = False
    """Replace the model that is in the folder of --save."""
    corpus: str = "zinc_sample"
    """Molecules without labels: zinc_sample (5,000, in the repository), ZINC, ChEMBL, or a .smi or .csv file. Their
    fragments are used too. The teacher predicts them, and the student learns these predictions beside the labels."""
    molecules: int = 5000
    """How many molecules of the corpus are used at most; none of them is in the valid or the test part."""
    csv: Path | None = None
    """The table that the teacher was trained on, where it is not a dataset of the registry."""
    epochs: int = 40
    """Passes over labelled and unlabelled molecules."""
    graph_width: int = 128
    """Width of the student's layers."""
    graph_depth: int = 4
    """Number of the student's layers."""
    ensemble: int = 1
    """Students that are trained from different initial weights; their mean predicts, at as many times the cost."""
    jobs: int | None = None
    """Processes at once. Default: one for each core; a GPU trains all students in one process."""
    llm: str | None = None
    """Where the teacher's LLM is, for one that is not in the registry."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    POSITIONAL: ClassVar = ("model",)
    ADDRESSES: ClassVar = ("csv",)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        if self.save is None:
            raise SettingError("give --save, a folder for the student")
        check_at_least(self, 1, "molecules", "epochs", "graph_width", "graph_depth", "ensemble", "jobs")
