"""Every setting of the page for a browser. Nothing heavy is imported here."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from kflm2.config.base import StageConfig, check_at_least, check_positive
from kflm2.config.explain import MOST_STEPS
from kflm2.errors import SettingError

LOOPBACK = "127.0.0.1"
"""The address of a machine for its own programs."""


@dataclass(frozen=True)
class ServeConfig(StageConfig):
    """Which saved model answers, where, and how much it takes on."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = Path("model")
    """Folder that `kflm2 train --save` wrote, or the name of a model of `kflm2 models`."""
    host: str = LOOPBACK
    """Address to listen on. The default can be reached from this machine only. There is no login: with another
    address, such as 0.0.0.0, everybody who can reach this machine can use the page."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    confidence: float = 0.9
    """How often an interval is to hold the true value."""
    limit: int = 1000
    """Molecules of one request at most."""
    max_megabytes: float = 8.0
    """Size of one request at most."""
    time_limit: float = 120.0
    """Seconds that one request may compute. After that it is stopped, and the model is loaded anew."""
    waiting: int = 8
    """Requests that may wait, while another one computes; further ones are refused."""
    max_atoms: int = 600
    """Atoms of a molecule, without hydrogens; a larger one has no prediction."""
    max_tokens: int = 2048
    """Tokens of a SMILES where the model reads an LLM; a longer one has no prediction."""
    steps: int = 64
    """Points at which an explanation takes gradients; see `kflm2 explain`."""
    llm: str | None = None
    """Where the model's LLM is, for one that is not in the registry."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    POSITIONAL: ClassVar = ("model",)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        if not 0 <= self.port <= 65535:
            raise SettingError(f"port is {self.port}; it must be 0 to 65535")
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence is {self.confidence}; it must be between 0 and 1, such as 0.9")
        check_at_least(self, 1, "limit", "max_atoms", "max_tokens")
        check_at_least(self, 0, "waiting")
        check_positive(self, "max_megabytes", "time_limit")
        if not 1 <= self.steps <= MOST_STEPS:
            raise SettingError(f"steps is {self.steps}; it must be 1 to {MOST_STEPS}")

    @property
    def most_bytes(self) -> int:
        """Bytes of one request at most."""
        return int(self.max_megabytes * 1_000_000)

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can reach the page."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
