"""Every setting of stage 3. Nothing heavy is imported here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from kflm2.config.pipelines import PIPELINES
from kflm2.config.table import TableConfig
from kflm2.data.parts import FOLDS, REPEATS
from kflm2.errors import SettingError, one_of


@dataclass(frozen=True)
class PromptConfig(TableConfig):
    """How an LLM is taught to answer with a property, and what it is asked."""

    llm: str = "auto"
    """auto (DS_1.5B with CUDA where it can be had, else the embedded SmolLM2_135M), a name of the registry, a folder
    with a checkpoint, a .gguf file, or a Hugging Face id."""
    adapter: str = "auto"
    """What the LLM learnt in stage 1 and starts from: folder of a PEFT adapter; auto takes models/<LLM>/<corpus> when
    it is there; none starts from the base LLM."""
    prompts: Path | None = None
    """Table of templates and words; default prompt/prompts.toml."""
    template: str = "plain"
    """Template of the table: plain (the paper's), instruction or question. The others are the paraphrases of which
    robustness is told."""
    shots: int = 0
    """Molecules of the training part, with their values, that come before the question."""
    shots_by: Literal["nearest", "random"] = "nearest"
    """Which: the most similar ones (Tanimoto of Morgan fingerprints), or any."""
    epochs: int = 8
    """Passes over the training molecules; 0 asks the LLM as it is (zero-shot, or few-shot with shots)."""
    learning_rate: float = 1e-3
    """Largest step size of AdamW; it rises over the first steps and falls along a cosine."""
    batch_size: int = 16
    """Prompts in a step."""
    loss: Literal["answer", "text"] = "answer"
    """Learn the answer's tokens only, or those of the whole text (the paper's)."""
    rank: int = 16
    """Rank of LoRA on all linear maps."""
    alpha: int = 32
    """LoRA's scale is alpha / rank."""
    dropout: float = 0.05
    """Dropout on LoRA's input."""
    load_4bit: bool = False
    """QLoRA: the LLM's own weights in 4 bit, by bitsandbytes on CUDA; a line says so where that cannot be."""
    unsloth: bool = False
    """Train by unsloth on CUDA; a line says so where that cannot be."""
    samples: int = 1
    """Answers drawn to each prompt of a regression, whose mean is the prediction; 1 takes the likeliest tokens."""
    writings: int = 5
    """Random SMILES of each test molecule that are asked too, to tell how much the answer hangs on the writing."""
    compare: str = "crossAtt"
    """Pipeline of stage 2 that is trained on the same split, to stand beside; none leaves it out."""
    runs: int = 1
    """How many seeds; every run is reported."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    config: Path | None = None
    """JSON file of settings; what is given on the command line goes before it."""

    FIRST: ClassVar = ("csv",)
    """Settings that others' defaults depend on."""

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings from given values, else defaults, not yet checked; a table goes before a script's dataset."""
        if values.get("csv") is not None:
            values = {**values, "csv": Path(values["csv"]), "dataset": None}
        return cls(**values)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        self.check_table()
        lows = dict.fromkeys(("batch_size", "rank", "alpha", "samples", "runs"), 1)
        lows |= dict.fromkeys(("shots", "epochs", "writings"), 0)
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not self.learning_rate > 0:
            raise SettingError(f"learning_rate is {self.learning_rate}; it must be positive")
        if not 0 <= self.dropout < 1:
            raise SettingError(f"dropout is {self.dropout}; it must be at least 0 and less than 1")
        one_of("pipeline to compare with", self.compare, (*PIPELINES, "none"))
        if self.samples > 1 and self.resolved_task == "classification":
            raise SettingError("samples are of regressions; of classes the probabilities are read")
        if self.split == "cv5x5" and self.seed + self.runs > FOLDS * REPEATS:
            raise SettingError(f"cv5x5 has the seeds 0 to {FOLDS * REPEATS - 1}; --seed and --runs leave them")

    def resolved(self) -> Self:
        """The same settings with the split filled in, which depends on others."""
        return replace(self, split=self.split_kind)
