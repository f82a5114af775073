"""Every setting of the table of LLMs. Nothing heavy is imported here."""

from dataclasses import dataclass

from kflm2.config.base import StageConfig, check_at_least


@dataclass(frozen=True)
class LLMsConfig(StageConfig):
    """For which sizes memory and work are estimated."""

    batch: int = 16
    """Molecules at a time."""
    tokens: int = 32
    """Tokens of a molecule; drug-like SMILES have about 30."""
    rank: int = 16
    """Rank of a LoRA adapter on all linear maps."""
    layers: int | None = None
    """First layers that are kept; default all."""

    def check(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "batch", "tokens", "rank", "layers")
