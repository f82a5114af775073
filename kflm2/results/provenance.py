"""What made a result: versions, commit, memory; and when two results are of the same method."""

import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from kflm2 import __version__
from kflm2.config.base import to_json
from kflm2.config.train import TrainConfig

_PACKAGES = ("torch", "transformers", "peft", "torch-geometric", "rdkit", "scikit-learn", "numpy", "pandas")
_OF_A_RUN = tuple("from seed runs out name save refit again device jobs precision csv development search".split())
"""Settings in which the runs of a method may differ. A table is known by its SHA-256, wherever it lies, and a saved
model to go on from by that of its weights; in which precision the LLM was read, its record says."""


def method_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that make a method, of result.json's config: those of a run, and where it lies, are left out.

    A setting that did not exist yet when a run was made had what is its default now.
    """
    return {name: value for name, value in {**to_json(TrainConfig()), **config}.items() if name not in _OF_A_RUN}


def peak_memory_mb() -> int | None:
    """The most memory this process held, in MB; None where the system does not measure it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"kflm2": __version__, "python": platform.python_version(), **packages}


@functools.cache
def commit() -> str | None:
    """The checkout's commit, with a + when files differ from it; None outside a checkout."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():  # an installed package may lie inside somebody else's repository
        return None
    git = ["git", "-C", str(checkout)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changed.returncode else "")
