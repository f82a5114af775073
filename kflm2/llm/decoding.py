"""A decoder with its vocabulary head: loaded, cut to its first layers, and read."""

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional

from kflm2.device import llm_dtype
from kflm2.errors import LLMError
from kflm2.llm.loading import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FLASH = "flash_attention_2"


def load_decoder(
    folder: Path, device: torch.device, load_4bit: bool = False, unsloth: bool = False
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A decoder with its vocabulary head, and its tokenizer.

    Args:
        folder: a checkpoint.
        device: bfloat16 on CUDA, float32 elsewhere.
        load_4bit: weights in 4 bit (QLoRA, Dettmers et al., NeurIPS 2023), where that is possible.
        unsloth: loaded by unsloth, where that is possible.

    Raises:
        LLMError: it is no decoder of the Llama kind, or has no end-of-sequence token.
    """
    from transformers import AutoTokenizer, GenerationConfig

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            llm = _load(folder, device, load_4bit, unsloth)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LLMError(f"LLM {folder} cannot be taught: {reason}") from None
    if tokenizer.eos_token_id is None:
        raise LLMError(f"LLM {folder} has no end-of-sequence token, so it cannot learn where a text ends")
    decoder = getattr(llm, "model", None)
    if not (hasattr(decoder, "layers") and hasattr(decoder, "norm")):
        raise LLMError(f"LLM {folder}: a {type(llm).__name__} has no layers that are known here")
    # what a checkpoint wants of its own generation (penalties, temperature) would mix with what is asked for here
    llm.generation_config = GenerationConfig()
    return llm, tokenizer


def _load(folder: Path, device: torch.device, load_4bit: bool, unsloth: bool) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    dtype = llm_dtype(device)
    load_4bit = load_4bit and _usable("4 bit", "bitsandbytes", device, f"{dtype} is used instead".replace("torch.", ""))
    if unsloth and _usable("unsloth", "unsloth", device, "peft is used instead"):
        from unsloth import FastLanguageModel

        llm, _ = FastLanguageModel.from_pretrained(str(folder), dtype=dtype, load_in_4bit=load_4bit)
        return llm
    more: dict[str, Any] = {}
    if load_4bit:
        from transformers import BitsAndBytesConfig

        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        more["device_map"] = {"": device}
    if device.type == "cuda" and _usable("packing", "flash_attn", device, "batches are padded instead"):
        more["attn_implementation"] = _FLASH
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **more
    )
    llm, info = loaded
    # transformers fills what a file lacks with random numbers; a tied vocabulary head is not missing
    if missing := list(info["missing_keys"]):
        raise ValueError(f"its files lack {len(missing)} weights, {missing[0]} among them")
    if load_4bit:
        from peft import prepare_model_for_kbit_training

        return prepare_model_for_kbit_training(llm, use_gradient_checkpointing=False)
    nn.Module.to(llm, device)
    return llm


def _usable(what: str, package: str, device: torch.device, instead: str) -> bool:
    """Whether a package that needs CUDA can be used; a line says so where not."""
    if device.type != "cuda":
        why = "there is no CUDA"
    elif importlib.util.find_spec(package) is None:
        why = f"{package} is not installed"
    else:
        return True
    print(f"{what}: {why}; {instead}", flush=True)
    return False


def cut(llm: "PreTrainedModel", layers: int | None) -> None:
    """Keep the first layers only; None keeps all."""
    decoder: Any = llm.model
    if layers is not None:
        decoder.layers = decoder.layers[:layers]
        llm.config.num_hidden_layers = layers


def hidden_states(llm: "PreTrainedModel", input_ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """(B, T, D) states of the last layer, before the final norm: what stage 2 reads of a middle layer.

    Args:
        llm: a decoder with its vocabulary head.
        input_ids: (B, T), padded to the right.
        real: (B, T) bool, False at padding.
    """
    kept: list[torch.Tensor] = []
    decoder: Any = llm.model
    # of the layer, not of the norm: libraries that speed an LLM up go past the norm's own call
    hook = decoder.layers[-1].register_forward_hook(lambda *out: kept.append(out[-1]))
    try:
        if llm.config._attn_implementation == _FLASH:
            return _packed(decoder, input_ids, real, kept)
        # right padding, and a decoder never looks right: no mask is needed
        decoder(input_ids=input_ids, use_cache=False)
    finally:
        hook.remove()
    return _tensor(kept[0])


def _packed(decoder: nn.Module, input_ids: torch.Tensor, real: torch.Tensor, kept: list[torch.Tensor]) -> torch.Tensor:
    """The same with all SMILES one after another in a single row, without padding; positions tell them apart."""
    positions = torch.arange(real.shape[1], device=real.device).expand_as(real)
    decoder(input_ids=input_ids[real][None], position_ids=positions[real][None], use_cache=False)
    (row,) = _tensor(kept[0])
    return row.new_zeros(*real.shape, row.shape[-1]).masked_scatter(real.unsqueeze(-1), row)


def _tensor(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


def nll_sum(llm: "PreTrainedModel", states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of the next tokens that have a label, summed, and how many there are.

    Args:
        llm: a decoder with its vocabulary head.
        states: (B, T, D) before the final norm.
        labels: (B, T), IGNORE where a token is not judged, as padding is.
    """
    headed: Any = llm
    real = labels[:, 1:] != IGNORE
    # the vocabulary head is the costliest map of a small LLM: not for padding
    logits = headed.lm_head(headed.model.norm(states[:, :-1][real]))
    return functional.cross_entropy(logits.float(), labels[:, 1:][real], reduction="sum"), real.sum()


def mean_pool(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of the states (B, T, D) of a SMILES' own tokens, without end and padding, to (B, D) float32."""
    real = labels != IGNORE
    # the end token is the last one that has a label, and stage 2 does not give it
    real = real & (torch.arange(real.shape[1], device=real.device) < real.sum(dim=1, keepdim=True) - 1)
    weight = real.unsqueeze(-1).float()
    return (states.float() * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Rows in batches of near-equal length, the longest first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return (order[start : start + size] for start in range(0, len(order), size))


@contextlib.contextmanager
def eval_mode(llm: "PreTrainedModel") -> Iterator[None]:
    """Without dropout."""
    training = llm.training
    llm.eval()
    try:
        yield
    finally:
        llm.train(training)


IGNORE = -100
"""A label that no loss is computed for."""


def tokens_and_labels(tokenizer: "PreTrainedTokenizerBase", smiles: list[str], context: int) -> dict[str, torch.Tensor]:
    """Token ids with the end-of-sequence token, (B, T) padded to the right, and labels that are IGNORE at padding.

    Padding is often the end token itself, so labels go by length, not by token.
    """
    end = [tokenizer.eos_token_id]
    rows = [(own + end)[:context] for own in tokenizer(smiles, add_special_tokens=True)["input_ids"]]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.eos_token_id)
    labels = torch.full_like(ids, IGNORE)
    for place, own in enumerate(rows):
        ids[place, : len(own)] = labels[place, : len(own)] = torch.tensor(own)
    return {"input_ids": ids, "labels": labels}
