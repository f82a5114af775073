"""Decoder LLMs with vocabulary head: loading, hidden states and losses."""

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
from kflm2.llm.checkpoints import NO_CODE
from kflm2.llm.loading import offline, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FLASH = "flash_attention_2"


def load_decoder(
    folder: Path, device: torch.device, load_4bit: bool = False, unsloth: bool = False
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load a decoder with its vocabulary head, and its tokenizer.

    Args:
        folder: a checkpoint.
        device: bfloat16 on CUDA, float32 elsewhere.
        load_4bit: weights in 4 bit (QLoRA, Dettmers et al., NeurIPS 2023), if possible.
        unsloth: load with unsloth, if possible.

    Raises:
        LLMError: it is not a decoder with the architecture of Llama, or it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer, GenerationConfig

    try:
        with quiet(), offline():
            tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
            llm = _load(folder, device, load_4bit, unsloth)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LLMError(f"LLM {folder} cannot be loaded as a decoder: {reason}") from None
    if tokenizer.eos_token_id is None:
        raise LLMError(f"LLM {folder} has no end-of-sequence token, so it cannot learn where a text ends")
    decoder = getattr(llm, "model", None)
    if not (hasattr(decoder, "layers") and hasattr(decoder, "norm")):
        raise LLMError(f"LLM {folder}: a {type(llm).__name__} has no decoder layers in the form of Llama")
    # the checkpoint's own generation settings (penalties, temperature) would override those of this program
    llm.generation_config = GenerationConfig()
    return llm, tokenizer


def _load(folder: Path, device: torch.device, load_4bit: bool, unsloth: bool) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    dtype = llm_dtype(device)
    load_4bit = load_4bit and _usable("4 bit", "bitsandbytes", device, f"{dtype} is used instead".replace("torch.", ""))
    if unsloth and _usable("unsloth", "unsloth", device, "peft is used instead"):
        from unsloth import FastLanguageModel

        llm, _ = FastLanguageModel.from_pretrained(str(folder), dtype=dtype, load_in_4bit=load_4bit, **NO_CODE)
        return llm
    options: dict[str, Any] = {}
    if load_4bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        options["device_map"] = {"": device}
    if device.type == "cuda" and _usable("packing", "flash_attn", device, "batches are padded instead"):
        options["attn_implementation"] = _FLASH
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **options, **NO_CODE
    )
    llm, info = loaded
    # transformers initializes missing weights at random; a tied vocabulary head is not reported as missing
    if missing := list(info["missing_keys"]):
        raise ValueError(f"its files lack {len(missing)} weights, {missing[0]} among them")
    if load_4bit:
        from peft import prepare_model_for_kbit_training

        return prepare_model_for_kbit_training(llm, use_gradient_checkpointing=False)
    nn.Module.to(llm, device)
    return llm


def _usable(feature: str, package: str, device: torch.device, fallback: str) -> bool:
    """Whether a package that needs CUDA can be used; if not, the reason is printed."""
    if device.type != "cuda":
        reason = "there is no CUDA"
    elif importlib.util.find_spec(package) is None:
        reason = f"{package} is not installed"
    else:
        return True
    print(f"{feature}: {reason}; {fallback}", flush=True)
    return False


def hidden_states(llm: "PreTrainedModel", input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T, D) states of the last layer before the final norm, as stage 2 reads them from a middle layer.

    Args:
        llm: a decoder with its vocabulary head.
        input_ids: (B, T), padded on the right.
        mask: (B, T) bool, False at padding.
    """
    outputs: list[torch.Tensor] = []
    decoder: Any = llm.model
    # a hook on the layer, not on the norm: libraries that accelerate an LLM bypass the call of the norm module
    hook = decoder.layers[-1].register_forward_hook(lambda *call: outputs.append(call[-1]))
    try:
        if llm.config._attn_implementation == _FLASH:
            return _packed(decoder, input_ids, mask, outputs)
        # padding is on the right, and no token attends to later tokens: no mask is needed
        decoder(input_ids=input_ids, use_cache=False)
    finally:
        hook.remove()
    return _tensor(outputs[0])


def _packed(
    decoder: nn.Module, input_ids: torch.Tensor, mask: torch.Tensor, outputs: list[torch.Tensor]
) -> torch.Tensor:
    """The same states, computed with all SMILES in a single row without padding; the position ids separate them."""
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    decoder(input_ids=input_ids[mask][None], position_ids=positions[mask][None], use_cache=False)
    (states,) = _tensor(outputs[0])
    return states.new_zeros(*mask.shape, states.shape[-1]).masked_scatter(mask.unsqueeze(-1), states)


def _tensor(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


def nll_sum(llm: "PreTrainedModel", states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the negative log-likelihoods of the next tokens that have a label, and the number of these tokens.

    Args:
        llm: a decoder with its vocabulary head.
        states: (B, T, D) before the final norm.
        labels: (B, T), IGNORE where a token has no loss, such as padding.
    """
    decoder: Any = llm
    mask = labels[:, 1:] != IGNORE
    # the vocabulary head is the most expensive layer of a small LLM, so it is not applied to padding
    logits = scaled_logits(llm, decoder.lm_head(decoder.model.norm(states[:, :-1][mask])))
    return functional.cross_entropy(logits.float(), labels[:, 1:][mask], reduction="sum"), mask.sum()


def scaled_logits(llm: "PreTrainedModel", logits: torch.Tensor) -> torch.Tensor:
    """What an LLM makes of the output of its vocabulary head: Granite and Cohere scale it, Gemma caps it."""
    config: Any = llm.config
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def mean_pool(states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of the states (B, T, D) over the tokens of a SMILES, without end token and padding, to (B, D) float32."""
    mask = labels != IGNORE
    # the end token is the last token with a label; the input of stage 2 does not contain it
    mask = mask & (torch.arange(mask.shape[1], device=mask.device) < mask.sum(dim=1, keepdim=True) - 1)
    weight = mask.unsqueeze(-1).float()
    return (states.float() * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of similar length, the longest first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return (order[start : start + size] for start in range(0, len(order), size))


@contextlib.contextmanager
def eval_mode(llm: "PreTrainedModel") -> Iterator[None]:
    """Context with the LLM in evaluation mode, without dropout."""
    training = llm.training
    llm.eval()
    try:
        yield
    finally:
        llm.train(training)


IGNORE = -100
"""Label of a token without loss."""


def tokens_and_labels(tokenizer: "PreTrainedTokenizerBase", smiles: list[str], context: int) -> dict[str, torch.Tensor]:
    """Token ids with the end-of-sequence token, (B, T) padded on the right, and labels that are IGNORE at padding.

    Padding is often the end token itself, so the labels depend on the length, not on the token.
    """
    end = [tokenizer.eos_token_id]
    rows = [(row + end)[:context] for row in tokenizer(smiles, add_special_tokens=True)["input_ids"]]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.eos_token_id)
    labels = torch.full_like(ids, IGNORE)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = labels[i, : len(row)] = torch.tensor(row)
    return {"input_ids": ids, "labels": labels}
