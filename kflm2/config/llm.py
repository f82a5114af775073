"""Settings that stages with an LLM share."""

from dataclasses import dataclass
from typing import ClassVar

from kflm2.config.base import StageConfig, check_at_least, check_below_one


@dataclass(frozen=True)
class LLMConfig(StageConfig):
    """Which LLM."""

    llm: str = "auto"
    """auto (DS_1.5B with CUDA where it can be had, else the embedded SmolLM2_135M), a name of the registry, a folder
    with a checkpoint, a .gguf file, or a Hugging Face id."""

    GROUP: ClassVar = "LLM"


@dataclass(frozen=True)
class AdapterConfig(LLMConfig):
    """Which LLM, and what it learnt in stage 1."""

    adapter: str = "auto"
    """Folder of a PEFT adapter; auto takes one of models/<LLM>/<corpus> (the one trained on most SMILES), else the one
    that the package has for this LLM; none takes the base LLM."""

    GROUP: ClassVar = "LLM"


@dataclass(frozen=True)
class LoRAConfig(StageConfig):
    """How a LoRA adapter is trained, in stages 1 and 3."""

    rank: int = 16
    """Rank of LoRA, by default on all linear maps."""
    alpha: int = 32
    """LoRA's scale is alpha / rank."""
    dropout: float = 0.05
    """Dropout on LoRA's input."""
    load_4bit: bool = False
    """QLoRA: the LLM's own weights in 4 bit, by bitsandbytes on CUDA; a line is printed where that is not possible."""
    unsloth: bool = False
    """Train by unsloth on CUDA; a line is printed where that is not possible."""

    GROUP: ClassVar = "LoRA"

    def check_lora(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "rank", "alpha")
        check_below_one(self, "dropout")
