"""A decoder with a LoRA adapter and a head that predicts what is known of a molecule."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from kflm2.config.finetune import FinetuneConfig
from kflm2.errors import SettingError
from kflm2.files import atomic
from kflm2.llm.adapters import HEAD
from kflm2.llm.decoding import IGNORE, hidden_states, mean_pool, nll_sum
from kflm2.llm.loading import quiet
from kflm2.scaling import Standardize
from kflm2.trainers.lora.knowledge import KnowledgeTargets

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_ALL_LINEAR = [*_ATTENTION, "gate_proj", "up_proj", "down_proj"]


class LoRAModel(nn.Module):
    """A decoder with a LoRA adapter, and a head that predicts knowledge from its pooled states."""

    loss_type = "ForCausalLM"
    """Tells transformers' Trainer that the first token of a text is not predicted, when it counts labels."""

    def __init__(
        self, llm: "PreTrainedModel", config: FinetuneConfig, knowledge: KnowledgeTargets | None = None
    ) -> None:
        """Add a new adapter to an LLM; until it is trained it does not change the LLM's outputs.

        Args:
            llm: with vocabulary head, already cut to its first layers.
            config: see FinetuneConfig.
            knowledge: what the head learns; None for a model without a head.
        """
        super().__init__()
        # what accelerate asks for, where each GPU has a part of every layer
        self._no_split_modules = list(llm._no_split_modules or [])
        self.peft: Any = _with_lora(llm, config)
        self.knowledge = knowledge
        self.sources = () if knowledge is None else tuple(knowledge.sources)
        self.head = None if knowledge is None else _head(llm.config.hidden_size, knowledge.size).to(llm.device)
        self.next_token_weight, self.next_token_every = config.next_token_weight, config.next_token_every
        self.molecules = config.batch_size * config.accumulation
        """Molecules per optimizer step, over all processes."""
        self.step = 0
        """Number of optimizer steps done."""
        self._sums: dict[str, tuple[float, int]] = {}
        """Of each loss, without weights: its sum over the batches of this process since `step`, and what it is of."""
        self._sums_of = -1
        """The step that these are of."""

    @property
    def losses(self) -> dict[str, float]:
        """Mean losses of the last step by name, without weights, of this process's batches."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    def _note(self, name: str, total: float, count: int) -> None:
        before, of = self._sums.get(name, (0.0, 0))
        self._sums[name] = before + total, of + count

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of all losses, of which a step may have some only."""
        return (*(("next token",) if self.next_token_weight else ()), *(source.name for source in self.sources))

    @torch.no_grad()
    def predict_knowledge(self, states: np.ndarray) -> np.ndarray:
        """(n, P) predictions of the head from pooled states (n, D)."""
        assert self.head is not None
        return np.asarray(self.head(torch.from_numpy(states).to(self.llm.device)).float().cpu().numpy())

    @property
    def llm(self) -> "PreTrainedModel":
        """The LLM, with the adapter in its layers."""
        base: Any = self.peft.get_base_model()
        return base

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        knowledge: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        **_: object,
    ) -> dict[str, torch.Tensor]:
        """Loss of a batch, as its share of the loss of the whole optimizer step.

        Args:
            input_ids: (B, T)
            labels: (B, T), IGNORE where a token has no loss, such as padding.
            knowledge: (B, P), NaN where nothing is known, if it is predicted.
            attention_mask: (B, T) bool, False at padding; by default False where there is no label.
            num_items_in_batch: labels in the whole step, over accumulation and processes, without those of the first
                tokens.
        """
        states = hidden_states(self.llm, input_ids, labels != IGNORE if attention_mask is None else attention_mask)
        if self._sums_of != self.step:
            self._sums, self._sums_of = {}, self.step
        loss = input_ids.new_zeros((), dtype=torch.float32)
        if self.next_token_weight and self.step % self.next_token_every == 0:
            nll, count = nll_sum(self.llm, states, labels)
            self._note("next token", nll.item(), int(count))
            step_count = count if num_items_in_batch is None else num_items_in_batch
            loss = loss + self.next_token_weight * nll / step_count
        if self.head is not None and knowledge is not None:
            known = ~torch.isnan(knowledge)
            # NaN must not enter the loss at all: 0 * NaN is NaN, in the gradient too
            targets = torch.where(known, knowledge, 0.0)
            errors = torch.where(known, (self.head(mean_pool(states, labels)) - targets) ** 2, 0.0)
            molecules = len(errors) if num_items_in_batch is None else self.molecules
            for source in self.sources:
                counts = known[:, source.columns].sum(dim=-1)
                # mean over what is known of a molecule; 0 where nothing is
                means = errors[:, source.columns].sum(dim=-1) / counts.clamp(min=1)
                if there := int((counts > 0).sum()):
                    self._note(source.name, means.sum().item(), there)
                loss = loss + source.weight * means.sum() / molecules
        return {"loss": loss}

    def fit_head(self, states: np.ndarray) -> None:
        """Fit the standardization of the pooled states (n, D), whose columns differ in scale by many decades."""
        if self.head is not None:
            standardize = self.head[0]
            assert isinstance(standardize, Standardize)
            standardize.fit(torch.from_numpy(states).to(self.llm.device))

    @torch.no_grad()
    def gather(self) -> None:
        """Give each process the whole adapter and head, where FSDP gave each a part; all processes must call it.

        After it the model can be saved, and not be trained any more.
        """
        for module in self.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.requires_grad and isinstance(weight, DTensor):
                    module._parameters[name] = nn.Parameter(weight.full_tensor())

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round the adapter's weights to float16 values; a float16 file, of half the size, then stores them exactly."""
        for name, weight in self.peft.named_parameters():
            if ".lora_" in name:
                weight.copy_(weight.half())

    def save(self, folder: Path, half: bool = False) -> None:
        """Write the adapter in peft's format, in float16 if `half` is set, and the head beside it."""
        adapter = {name: weight.detach() for name, weight in self.peft.named_parameters() if ".lora_" in name}
        if half:
            adapter = {name: weight.half() for name, weight in adapter.items()}
        for config in self.peft.peft_config.values():
            if isinstance(config.target_modules, set):  # in the order of a set equal adapters had other bytes
                config.target_modules = sorted(config.target_modules)
        self.peft.save_pretrained(str(folder), state_dict=adapter, save_embedding_layers=False)
        if self.head is not None and self.knowledge is not None:
            arrays = {name: weight.contiguous() for name, weight in self.head.state_dict().items()}
            arrays |= {name: torch.from_numpy(array) for name, array in self.knowledge.table_arrays().items()}
            with atomic(folder / HEAD) as temporary:
                save_file(arrays, temporary, {"tables": json.dumps(self.knowledge.table_names())})

    def restore(self, folder: Path) -> None:
        """Load adapter and head from a folder that `save` wrote."""
        set_peft_model_state_dict(self.peft, load_peft_weights(str(folder), device="cpu"))
        if self.head is not None:
            arrays = load_file(folder / HEAD)
            self.head.load_state_dict({name: arrays[name] for name in self.head.state_dict()})


def _with_lora(llm: "PreTrainedModel", config: FinetuneConfig) -> "PeftModel":
    targets: str | list[str] = "all-linear"
    if config.targets == "paper":
        # a tied vocabulary head shares its weights with the token embeddings: an adapter on it would untie them
        there = {name.rpartition(".")[2] for name, _ in llm.named_modules()}
        if missing := [name for name in _ATTENTION if name not in there]:
            raise SettingError(f"targets paper: the LLM has no {', '.join(missing)}; take --targets all-linear")
        targets = _ATTENTION if llm.config.tie_word_embeddings else [*_ATTENTION, "lm_head"]
    if config.unsloth and "unsloth" in sys.modules:  # the LLM was loaded by unsloth
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


def _head(width: int, columns: int) -> nn.Sequential:
    """Standardized pooled states to columns; initialized to zero, which predicts their mean."""
    linear = nn.Linear(width, columns)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(Standardize(width), linear)
