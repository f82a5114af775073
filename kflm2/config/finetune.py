"""Every setting of stage 1. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from kflm2.config.base import StageConfig, check_at_least, check_below_one, check_not_negative, check_positive
from kflm2.config.llm import LLMConfig, LoRAConfig
from kflm2.errors import SettingError


@dataclass(frozen=True)
class CorpusConfig(StageConfig):
    """Which SMILES the LLM is trained on."""

    corpus: str = "auto"
    """auto (ZINC or ChEMBL where one was downloaded, else zinc_sample), ZINC, ChEMBL, MOSES, zinc_sample, or a .smi or
    .csv file of your own, packed by gzip or not."""
    limit: int | None = None
    """Use the first molecules only; default all."""
    keep_tested: bool = False
    """Also train on molecules that a dataset of stage 2 holds; by default those of every dataset that is here are left
    out and counted, by the bonds between their atoms: with all their salts, ions and stereoisomers."""
    fragments: bool = False
    """Also train on the molecules' BRICS fragments, open bonds closed: small molecules of many kinds."""
    randomize: float = 0.0
    """Share of the molecules, drawn anew in every epoch, that are written as random SMILES: atoms in random order."""

    GROUP: ClassVar = "corpus"


@dataclass(frozen=True)
class FinetuneConfig(LoRAConfig, LLMConfig, CorpusConfig):
    """How an LLM is fine-tuned on SMILES."""

    layers: int | None = field(default=None, metadata={"group": "LLM"})
    """Keep the LLM's first layers only; stage 2 then reads the last of these. Default all."""
    knowledge: Literal["none", "descriptors"] = "none"
    """descriptors: a small head learns, beside the next token, RDKit's descriptors (as ranks) from the mean state."""
    knowledge_weight: float = 1.0
    """Weight of its loss."""
    next_token_weight: float = 1.0
    """Weight of the next-token loss; 0 leaves it out, and the vocabulary head is then not run."""
    next_token_every: int = 1
    """Learn the next token in every so many-th step only, beside descriptors: the vocabulary head is costly."""
    targets: Literal["all-linear", "paper"] = field(default="all-linear", metadata={"group": "LoRA"})
    """all-linear: every linear map of the layers; paper: q, k, v, o, and the vocabulary head where it is not tied."""
    epochs: int = 1
    """Passes over the corpus."""
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
    """Continue from the last checkpoint of the same settings."""
    seed: int = 0
    """Of adapter weights, dropout and order."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    evaluate: bool = field(default=True, metadata={"group": "evaluation"})
    """Evaluate the LLM before and after."""
    samples: int = field(default=200, metadata={"group": "evaluation"})
    """SMILES that the LLM writes for that, before and after; 0 for none."""
    float16: bool = field(default=False, metadata={"group": "output"})
    """Round the adapter to float16 in the end: half the size."""
    out: Path = field(default_factory=lambda: Path("models"), metadata={"group": "output"})
    """Folder of adapters: the result is OUT/<LLM>/<corpus>."""

    GROUP: ClassVar = "training"

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        self.check_lora()
        check_at_least(self, 1, "epochs", "batch_size", "accumulation", "save_steps", "next_token_every")
        check_at_least(self, 1, "limit", "layers")
        check_below_one(self, "warmup")
        if not 0 <= self.randomize <= 1:
            raise SettingError(f"randomize is {self.randomize}; it is a share, from 0 to 1")
        check_not_negative(self, "knowledge_weight", "next_token_weight", "samples")
        check_positive(self, "learning_rate")
        next_token_only = self.knowledge == "none" or self.knowledge_weight == 0
        if next_token_only and self.next_token_weight == 0:
            raise SettingError("nothing is to be learnt: next_token_weight is 0 and knowledge is none")
        if next_token_only and self.next_token_every > 1:
            raise SettingError("next_token_every leaves steps in which nothing is to be learnt: knowledge is none")
