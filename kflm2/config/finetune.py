"""Every setting of stage 1. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kflm2.config.base import StageConfig
from kflm2.errors import SettingError


@dataclass(frozen=True)
class FinetuneConfig(StageConfig):
    """How an LLM is taught SMILES."""

    llm: str = "auto"
    """auto (DS_1.5B with CUDA where it can be had, else the embedded SmolLM2_135M), a name of the registry, a folder
    with a checkpoint, a .gguf file, or a Hugging Face id."""
    corpus: str = "auto"
    """auto (ZINC or ChEMBL where one was downloaded, else zinc_sample), ZINC, ChEMBL, MOSES, zinc_sample, or a .smi or
    .csv file of your own, packed by gzip or not."""
    limit: int | None = None
    """Use the first molecules only; default all."""
    keep_tested: bool = False
    """Also teach molecules that a dataset of stage 2 holds; by default those of every dataset that is here are left out
    (by InChIKey) and counted."""
    fragments: bool = False
    """Also teach the molecules' BRICS fragments, open bonds closed: small molecules of many kinds."""
    randomize: float = 0.0
    """Share of the molecules, drawn anew in every epoch, that are written another way: atoms in random order."""
    layers: int | None = None
    """Keep the LLM's first layers only; stage 2 then reads the last of these. Default all."""
    knowledge: Literal["none", "descriptors"] = "none"
    """descriptors: a small head learns, beside the next token, RDKit's descriptors (as ranks) from the mean state."""
    knowledge_weight: float = 1.0
    """Weight of its loss."""
    next_token_weight: float = 1.0
    """Weight of the next-token loss; 0 leaves it out, and the vocabulary head is then not run."""
    next_token_every: int = 1
    """Learn the next token in every so many-th step only, beside descriptors: the vocabulary head is costly."""
    rank: int = 16
    """Rank of LoRA."""
    alpha: int = 32
    """LoRA's scale is alpha / rank."""
    dropout: float = 0.05
    """Dropout on LoRA's input."""
    targets: Literal["all-linear", "paper"] = "all-linear"
    """all-linear: every linear map of the layers; paper: q, k, v, o, and the vocabulary head where it is not tied."""
    epochs: int = 1
    """Passes over the corpus."""
    load_4bit: bool = False
    """QLoRA: the LLM's own weights in 4 bit, by bitsandbytes on CUDA; a line says so where that cannot be."""
    unsloth: bool = False
    """Train by unsloth on CUDA; a line says so where that cannot be."""
    batch_size: int = 32
    """Molecules in a step, of each process."""
    accumulation: int = 1
    """Batches whose gradients make a step."""
    learning_rate: float = 1e-3
    """Largest step size of AdamW; it rises over the first steps and falls along a cosine."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises."""
    save_steps: int = 200
    """Steps between checkpoints."""
    resume: bool = False
    """Go on at the last checkpoint of the same settings."""
    seed: int = 0
    """Of adapter weights, dropout and order."""
    float16: bool = False
    """Round the adapter to float16 in the end: half the size."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    out: Path = field(default_factory=lambda: Path("models"))
    """Folder of adapters: the result is OUT/<LLM>/<corpus>."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        for name in ("rank", "alpha", "epochs", "batch_size", "accumulation", "save_steps", "next_token_every"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("limit", "layers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SettingError(f"{name} is {value}; it must be at least 1")
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1")
        if not 0 <= self.randomize <= 1:
            raise SettingError(f"randomize is {self.randomize}; it is a share, from 0 to 1")
        for name in ("knowledge_weight", "next_token_weight"):
            if not getattr(self, name) >= 0:
                raise SettingError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not self.learning_rate > 0:
            raise SettingError(f"learning_rate is {self.learning_rate}; it must be positive")
        alone = self.knowledge == "none" or self.knowledge_weight == 0
        if alone and self.next_token_weight == 0:
            raise SettingError("nothing is to be learnt: next_token_weight is 0 and knowledge is none")
        if alone and self.next_token_every > 1:
            raise SettingError("next_token_every leaves steps in which nothing is to be learnt: knowledge is none")
