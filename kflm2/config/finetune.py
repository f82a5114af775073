"""Every setting of stage 1. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from kflm2.config.base import check_at_least, check_below_one, check_not_negative, check_positive
from kflm2.config.corpus import CorpusConfig
from kflm2.config.llm import LLMConfig, LoRAConfig
from kflm2.errors import SettingError


@dataclass(frozen=True)
class FinetuneConfig(LoRAConfig, LLMConfig, CorpusConfig):
    """How an LLM is fine-tuned on SMILES."""

    randomize: float = field(default=0.0, metadata={"group": "corpus"})
    """Share of the molecules, drawn anew in every epoch, that are written as random SMILES: atoms in random order."""
    layers: int | None = field(default=None, metadata={"group": "LLM"})
    """Keep the LLM's first layers only; stage 2 then reads the last of these. Default all."""
    knowledge: tuple[str, ...] = ()
    """What a small head learns from the mean state, as ranks, beside the next token: descriptors (RDKit's), xtb (the
    table of quantum chemistry in dataset/), or any .parquet or .csv file of SMILES and numbers, some of which may be
    missing; several words for several of them."""
    knowledge_weight: tuple[float, ...] = (1.0,)
    """Weights of their losses: one for each, or one for all."""
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
    precision: Literal["auto", "float32", "mixed", "bfloat16"] = "auto"
    """Of the arithmetic: float32, mixed (linear maps in bfloat16, all else in float32), or bfloat16, which is that of
    GPUs alone. auto is mixed on a CPU with instructions for it, twice as fast there, else float32."""
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
        self.check_corpus()
        check_at_least(self, 1, "layers")
        check_below_one(self, "warmup")
        if not 0 <= self.randomize <= 1:
            raise SettingError(f"randomize is {self.randomize}; it is a share, from 0 to 1")
        check_not_negative(self, "next_token_weight", "samples")
        check_positive(self, "learning_rate")
        weights = self.knowledge_weight
        if len(weights) not in (1, len(self.knowledge)) or not all(weight >= 0 for weight in weights):
            raise SettingError(
                f"knowledge_weight {' '.join(map(str, weights))}: give one for all, or one for each word of knowledge,"
                " and none below 0"
            )
        if len(set(self.knowledge)) < len(self.knowledge):
            raise SettingError("knowledge names one twice")
        next_token_only = not self.knowledge or not any(weights)
        if next_token_only and self.next_token_weight == 0:
            raise SettingError("nothing is to be learnt: next_token_weight is 0 and knowledge is none")
        if next_token_only and self.next_token_every > 1:
            raise SettingError("next_token_every leaves steps in which nothing is to be learnt: knowledge is none")
