"""A decoder with a LoRA adapter, and a head that predicts descriptors."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors.torch import load_file, save_file
from torch import nn

from kflm2.config.finetune import FinetuneConfig
from kflm2.errors import SettingError
from kflm2.files import atomic
from kflm2.llm.decoding import IGNORE, hidden_states, mean_pool, nll_sum
from kflm2.llm.loading import quiet
from kflm2.model import Standardize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "knowledge_head.safetensors"
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_ALL_LINEAR = [*_ATTENTION, "gate_proj", "up_proj", "down_proj"]


class LoRAModel(nn.Module):
    """A decoder with a LoRA adapter, and the head that predicts descriptors from its pooled states."""

    def __init__(self, llm: "PreTrainedModel", config: FinetuneConfig, descriptors: int) -> None:
        """Put a fresh adapter on an LLM, which changes nothing yet.

        Args:
            llm: with vocabulary head, its layers cut already.
            config: see FinetuneConfig.
            descriptors: P; 0 without a head.
        """
        super().__init__()
        self.peft: Any = _with_lora(llm, config)
        self.head = _head(llm.config.hidden_size, descriptors).to(llm.device) if descriptors else None
        self.next_token_weight, self.next_token_every = config.next_token_weight, config.next_token_every
        self.knowledge_weight = config.knowledge_weight
        self.molecules = config.batch_size * config.accumulation
        """In an optimizer's step, over all processes."""
        self.step = 0
        """Optimizer's steps made."""
        self.losses: dict[str, float] = {}
        """Of the last batch, each for itself."""

    @property
    def llm(self) -> "PreTrainedModel":
        """The LLM with the adapter in it."""
        base: Any = self.peft.get_base_model()
        return base

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        descriptors: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        **_: object,
    ) -> dict[str, torch.Tensor]:
        """Loss of a batch, as its share of the whole step's.

        Args:
            input_ids: (B, T)
            labels: (B, T), IGNORE where a token is not judged, as padding is.
            descriptors: (B, P), where they are learnt.
            attention_mask: (B, T) bool, False at padding; default where there is no label.
            num_items_in_batch: labels in the whole step, over accumulation and processes.
        """
        read = hidden_states(self.llm, input_ids, labels != IGNORE if attention_mask is None else attention_mask)
        self.losses = {}
        loss = input_ids.new_zeros((), dtype=torch.float32)
        if self.next_token_weight and self.step % self.next_token_every == 0:
            summed, count = nll_sum(self.llm, read, labels)
            self.losses["next token"] = (summed / count).item()
            labels_of_step = count if num_items_in_batch is None else num_items_in_batch
            loss = loss + self.next_token_weight * summed / labels_of_step
        if self.head is not None and descriptors is not None:
            each = ((self.head(mean_pool(read, labels)) - descriptors) ** 2).mean(dim=-1)
            self.losses["descriptors"] = each.mean().item()
            molecules = len(each) if num_items_in_batch is None else self.molecules
            loss = loss + self.knowledge_weight * each.sum() / molecules
        return {"loss": loss}

    def fit_head(self, states: np.ndarray) -> None:
        """Learn the scale of the pooled states (n, D), whose columns differ by many decades."""
        if self.head is not None:
            scale = self.head[0]
            assert isinstance(scale, Standardize)
            scale.fit(torch.from_numpy(states).to(self.llm.device))

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Make the adapter's weights numbers that float16 can hold; files of it are then half as large."""
        for name, weight in self.peft.named_parameters():
            if ".lora_" in name:
                weight.copy_(weight.half())

    def save(self, folder: Path, half: bool = False) -> None:
        """Write the adapter as peft does, in float16 where that is asked for, and the head beside it."""
        adapter = {name: weight.detach() for name, weight in self.peft.named_parameters() if ".lora_" in name}
        if half:
            adapter = {name: weight.half() for name, weight in adapter.items()}
        self.peft.save_pretrained(str(folder), state_dict=adapter, save_embedding_layers=False)
        if self.head is not None:
            with atomic(folder / HEAD) as temporary:
                save_file({name: weight.contiguous() for name, weight in self.head.state_dict().items()}, temporary)

    def restore(self, folder: Path) -> None:
        """Take adapter and head from a folder that save wrote."""
        set_peft_model_state_dict(self.peft, load_peft_weights(str(folder), device="cpu"))
        if self.head is not None:
            self.head.load_state_dict(load_file(folder / HEAD))


def _with_lora(llm: "PreTrainedModel", config: FinetuneConfig) -> "PeftModel":
    targets: str | list[str] = "all-linear"
    if config.targets == "paper":
        # a tied head is the token embeddings too: an adapter on one of the two would untie them
        targets = _ATTENTION if llm.config.tie_word_embeddings else [*_ATTENTION, "lm_head"]
    if config.unsloth and "unsloth" in sys.modules:  # what loaded the LLM
        from unsloth import FastLanguageModel

        if "lm_head" in targets:
            raise SettingError(
                "unsloth trains a vocabulary head whole, not by LoRA; --targets paper needs --no-unsloth"
            )
        return FastLanguageModel.get_peft_model(
            llm,
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=_ALL_LINEAR if targets == "all-linear" else targets,
            bias="none",
            use_gradient_checkpointing=False,
            random_state=config.seed,
        )
    lora_config = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with quiet():
        return get_peft_model(llm, lora_config)


def _head(width: int, descriptors: int) -> nn.Sequential:
    """Standardized pooled states to descriptors; zero at first, so that it begins at the descriptors' mean."""
    linear = nn.Linear(width, descriptors)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(Standardize(width), linear)
