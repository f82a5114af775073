"""An LLM in memory, with or without an adapter, cut to its first layers."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from kflm2.device import choose_precision
from kflm2.errors import LLMError
from kflm2.llm.checkpoints import NO_CODE
from kflm2.llm.registry import EMBEDDED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoadedLLM:
    """An LLM in memory, without vocabulary head, in evaluation mode."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    causal: bool
    """A decoder: no token sees what comes after it."""
    context: int
    """Tokens it can read at once."""


class MixedLinear(nn.Module):
    """A linear map of float32 vectors that multiplies numbers rounded to bfloat16, and rounds its result so.

    A processor without instructions for bfloat16 multiplies the rounded numbers in float32, which is faster there.
    """

    def __init__(self, linear: nn.Linear, native: bool) -> None:
        """Take over the weights of a linear map.

        Args:
            linear: to replace.
            native: whether the processor has instructions for bfloat16.
        """
        super().__init__()
        dtype = torch.bfloat16 if native else torch.float32
        self.weight, self.bias = (
            None if values is None else nn.Parameter(values.detach().bfloat16().to(dtype), requires_grad=False)
            for values in (linear.weight, linear.bias)
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None
        out = functional.linear(rows.bfloat16().to(self.weight.dtype), self.weight, self.bias)
        return out.bfloat16().float()


def load(
    folder: Path,
    adapter: Path | None,
    device: torch.device,
    keep_layers: int | None = None,
    precision: str = "float32",
) -> LoadedLLM:
    """Load an LLM from a checkpoint folder.

    Args:
        folder: from checkpoint_folder.
        adapter: PEFT adapter put on top, merged into the weights.
        device: to run on.
        keep_layers: keep the first layers only and leave out the final norm; None keeps all.
        precision: float32, bfloat16, or mixed: linear maps as MixedLinear, all else in float32.

    Raises:
        LLMError: transformers cannot load it.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    with quiet(), offline():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
            dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
            if adapter is not None:
                model = _with_adapter(folder, adapter, dtype, keep_layers)
            else:
                # the checkpoint's own number format would be taken if none were given
                model, info = AutoModel.from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **NO_CODE
                )
                # transformers fills what a file lacks with random numbers and a warning; a pooler is not used here
                if missing := [key for key in info["missing_keys"] if "pooler" not in key]:
                    raise ValueError(f"its files lack {len(missing)} weights, {missing[0]} among them")
                cut_layers(model, keep_layers, keep_norm=False)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            what = f"with adapter {adapter} " if adapter else ""
            raise LLMError(f"LLM {folder} {what}cannot be loaded: {reason}; {EMBEDDED} is the embedded LLM") from None
    if precision == "mixed":
        _mix_precision(model, native=choose_precision("auto", device) != "float32")
    nn.Module.to(model, device)
    model.eval().requires_grad_(False)
    causal = _is_causal(model)
    context = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
    return LoadedLLM(model, tokenizer, causal, context)


def cut_layers(decoder: nn.Module, layers: int | None, keep_norm: bool) -> None:
    """Keep the first layers of a decoder only; None, or as many as there are, changes nothing.

    Args:
        decoder: without its vocabulary head. One whose layers or final norm are not found is left as it is: without a
            known norm its last states would be normed where those of other layers are not.
        layers: how many.
        keep_norm: keep the final norm, which the vocabulary head needs; hidden states are read without it.
    """
    blocks: Any = getattr(decoder, "layers", None)
    if layers is None or not isinstance(blocks, nn.ModuleList) or not hasattr(decoder, "norm") or layers >= len(blocks):
        return
    decoder.layers = blocks[:layers]
    config: Any = decoder.config
    config.num_hidden_layers = layers
    if not keep_norm:
        decoder.norm = nn.Identity()


def _mix_precision(module: nn.Module, native: bool) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, MixedLinear(child, native))
        else:
            _mix_precision(child, native)


def _with_adapter(folder: Path, adapter: Path, dtype: torch.dtype, keep_layers: int | None = None) -> "PreTrainedModel":
    from peft import PeftModel
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    # stage 1 wraps the class with the vocabulary head, and the adapter's tensors are named by it
    architectures = AutoConfig.from_pretrained(folder, **NO_CODE).architectures or []
    headed = any(name.endswith("ForCausalLM") for name in architectures)
    auto = AutoModelForCausalLM if headed else AutoModel
    model = auto.from_pretrained(folder, dtype=dtype, use_safetensors=True, **NO_CODE)
    # before peft sees it: an adapter of the first layers lacks tensors for the others, and peft warns of every one
    cut_layers(model.base_model if headed else model, keep_layers, keep_norm=False)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return merged.base_model if headed else merged


def _is_causal(model: "PreTrainedModel") -> bool:
    # the same shape twice, so that the same sums are made: a first token that cannot see the others gives the same bits
    with torch.inference_mode():
        first, second = (
            model(input_ids=torch.tensor([row], device=model.device)).last_hidden_state[0, 0]
            for row in ([1, 2, 3, 4], [1, 4, 2, 5])
        )
    return torch.equal(first, second)


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """No request to the Hugging Face hub, as with HF_HUB_OFFLINE: the files are here, whatever a config names."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No loading bar of transformers, and no notes on unused head weights: stage 2 leaves the head out on purpose."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that is on its way out
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
