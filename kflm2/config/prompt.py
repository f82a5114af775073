"""Every setting of stage 3. Nothing heavy is imported here."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import tyro

from kflm2.config.base import check_at_least, check_positive
from kflm2.config.llm import AdapterConfig, LoRAConfig
from kflm2.config.pipelines import PIPELINES
from kflm2.config.table import TableConfig
from kflm2.errors import SettingError, one_of


@dataclass(frozen=True)
class PromptTextConfig:
    """What the LLM is prompted with, and how its answers are analysed."""

    prompts: Path | None = None
    """TOML file of templates and words; default prompt/prompts.toml where there is one, else the package's own."""
    template: str = "plain"
    """Template of that file: plain (the paper's), instruction or question. The others are the paraphrases by which
    robustness is measured."""
    shots: int = 0
    """Molecules of the training part, with their values, that come before the question."""
    shots_by: Literal["nearest", "random"] = "nearest"
    """Which: the most similar ones (Tanimoto of Morgan fingerprints), or random ones."""
    samples: int = 1
    """Answers drawn for each prompt of a regression, whose mean is the prediction; 1 takes the likeliest tokens."""
    smiles_variants: Annotated[int, tyro.conf.arg(aliases=["--writings"])] = 5
    """Random SMILES of each test molecule that are prompted too, to measure how much the answer depends on how the
    molecule is written."""
    compare: str = "crossAtt"
    """Pipeline of stage 2 that is trained on the same split, for comparison; none leaves it out."""

    GROUP: ClassVar = "prompt"


@dataclass(frozen=True)
class PromptConfig(PromptTextConfig, LoRAConfig, AdapterConfig, TableConfig):
    """How an LLM is trained to answer with a property, and what it is prompted with."""

    runs: int = field(default=1, metadata={"group": "split"})
    """How many seeds; every run is reported."""
    epochs: int = 8
    """Passes over the training molecules; 0 prompts the LLM as it is (zero-shot, or few-shot with shots)."""
    learning_rate: float = 1e-3
    """Largest step size of AdamW; it rises over the first steps and falls along a cosine."""
    batch_size: int = 16
    """Prompts in a step."""
    loss: Literal["answer", "text"] = "answer"
    """Learn the answer's tokens only, or those of the whole text (the paper's)."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    again: bool = field(default=False, metadata={"group": "output"})
    """Replace runs of other settings, prompts, data or LLM that are in the folder of results."""

    GROUP: ClassVar = "training"
    FIRST: ClassVar = ("csv",)
    CSV_REPLACES_DATASET: ClassVar = True
    OLD_NAMES: ClassVar = {**TableConfig.OLD_NAMES, "smiles_variants": "writings"}

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        super().check()
        if self.weight_column is not None:
            raise SettingError("--weight-column is of stage 2: an LLM that is prompted learns from every answer alike")
        if self.feature_columns:
            raise SettingError("--feature-columns are of stage 2: a prompt has the SMILES alone")
        self.check_lora()
        check_at_least(self, 1, "batch_size", "samples", "runs")
        check_at_least(self, 0, "shots", "epochs", "smiles_variants")
        check_positive(self, "learning_rate")
        one_of("pipeline to compare with", self.compare, (*PIPELINES, "none"))
        if self.samples > 1 and self.resolved_task == "classification":
            raise SettingError("samples are of regressions; of classes the probabilities are read")
        self.check_seeds(self.runs)

    def resolved(self) -> Self:
        """The same settings with the split filled in, which depends on others."""
        return replace(self, split=self.resolved_split)
