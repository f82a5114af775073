"""Stage 1: LoRA teaches an LLM to read SMILES, by the next token and by what chemists compute of the molecule."""

import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kflm2.errors import DataError, LLMError, SettingError
from kflm2.featurize.loading import quiet
from kflm2.files import atomic
from kflm2.finetune_settings import FinetuneSettings
from kflm2.model import Standardize
from kflm2.trainers.callbacks import Curve, RandomState, Stop
from kflm2.trainers.decoder import pooled, states, surprise
from kflm2.trainers.lessons import IGNORE, Collator, Lessons

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "knowledge_head.safetensors"
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_ALL_LINEAR = [*_ATTENTION, "gate_proj", "up_proj", "down_proj"]


class TaughtLLM(nn.Module):
    """A decoder with a LoRA adapter, and the head that predicts descriptors from its pooled states."""

    def __init__(self, llm: "PreTrainedModel", settings: FinetuneSettings, descriptors: int) -> None:
        """Put a fresh adapter on an LLM, which changes nothing yet.

        Args:
            llm: with vocabulary head, its layers cut already.
            settings: see FinetuneSettings.
            descriptors: P; 0 without a head.
        """
        super().__init__()
        self.peft: Any = _with_lora(llm, settings)
        self.head = _head(llm.config.hidden_size, descriptors).to(llm.device) if descriptors else None
        self.next_token_weight, self.next_token_every = settings.next_token_weight, settings.next_token_every
        self.knowledge_weight = settings.knowledge_weight
        self.molecules = settings.batch_size * settings.accumulation
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
        read = states(self.llm, input_ids, labels != IGNORE if attention_mask is None else attention_mask)
        self.losses = {}
        loss = input_ids.new_zeros((), dtype=torch.float32)
        if self.next_token_weight and self.step % self.next_token_every == 0:
            summed, count = surprise(self.llm, read, labels)
            self.losses["next token"] = (summed / count).item()
            labels_of_step = count if num_items_in_batch is None else num_items_in_batch
            loss = loss + self.next_token_weight * summed / labels_of_step
        if self.head is not None and descriptors is not None:
            each = ((self.head(pooled(read, labels)) - descriptors) ** 2).mean(dim=-1)
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


def _with_lora(llm: "PreTrainedModel", settings: FinetuneSettings) -> "PeftModel":
    targets: str | list[str] = "all-linear"
    if settings.targets == "paper":
        # a tied head is the token embeddings too: an adapter on one of the two would untie them
        targets = _ATTENTION if llm.config.tie_word_embeddings else [*_ATTENTION, "lm_head"]
    if settings.unsloth and "unsloth" in sys.modules:  # what loaded the LLM
        from unsloth import FastLanguageModel

        if "lm_head" in targets:
            raise SettingError(
                "unsloth trains a vocabulary head whole, not by LoRA; --targets paper needs --no-unsloth"
            )
        return FastLanguageModel.get_peft_model(
            llm,
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=_ALL_LINEAR if targets == "all-linear" else targets,
            bias="none",
            use_gradient_checkpointing=False,
            random_state=settings.seed,
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with quiet():
        return get_peft_model(llm, config)


def _head(width: int, descriptors: int) -> nn.Sequential:
    """Standardized pooled states to descriptors; zero at first, so that it begins at the descriptors' mean."""
    linear = nn.Linear(width, descriptors)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(Standardize(width), linear)


class LoraTrainer(Trainer):
    """transformers' Trainer, that writes adapter and head rather than a whole model."""

    model: TaughtLLM

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.model.step = self.state.global_step
        loss = super().training_step(*args, **kwargs)
        if not all(math.isfinite(own) for own in self.model.losses.values()):
            # before a checkpoint of it takes the place of a good one
            last = last_checkpoint(Path(str(self.args.output_dir)).parent)
            raise LLMError(
                f"the loss is not a number at step {self.state.global_step + 1}; lower --learning-rate"
                + (f" (the last good checkpoint is {last})" if last else "")
            )
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own
            own = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(own, ignore_errors=True)
            last = last_checkpoint(own.parent.parent)
            kept = f"--resume goes on from {last}" if last else "there is no earlier one"
            raise DataError(f"checkpoint {own} cannot be written: {str(error).splitlines()[0]}; {kept}") from None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self.model.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.restore(Path(resume_from_checkpoint))


def train(
    model: TaughtLLM,
    lessons: Lessons,
    collator: Collator,
    molecules: int,
    settings: FinetuneSettings,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Teach, with a checkpoint every so many steps, from the last one where that is asked for.

    Args:
        model: with a fresh adapter.
        lessons: what to read.
        collator: makes tensors of it.
        molecules: in an epoch.
        settings: see FinetuneSettings.
        folder: of checkpoints and losses.csv.
        callbacks: called beside its own.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
        DataError: the disk is full; the last good checkpoint stays.
    """
    arguments = _arguments(settings, lessons, molecules, next(model.parameters()).device, folder)
    last = last_checkpoint(folder) if settings.resume else None
    if last is not None:
        done = json.loads((last / "trainer_state.json").read_text())["global_step"]
        if done >= arguments.max_steps:
            model.restore(last)
            return
        lessons.start = done * lessons.step
    stop = Stop()
    trainer = LoraTrainer(
        model=model,
        args=arguments,
        train_dataset=lessons,
        data_collator=collator,
        callbacks=[Curve(lambda: model.losses, folder / "losses.csv", lessons.step), stop, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    model.molecules = lessons.step
    if last is not None:
        random_state = RandomState(last)
        random_state.trainer = trainer
        trainer.add_callback(random_state)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except OSError as error:
        kept = last_checkpoint(folder)
        goes_on = f"--resume goes on from {kept}" if kept else "there is no checkpoint yet"
        raise DataError(f"{folder} cannot be written: {error}; {goes_on}") from None
    if stop.asked:
        print(f"stopped; --resume goes on from {last_checkpoint(folder)}", flush=True)
        raise KeyboardInterrupt


def _arguments(
    settings: FinetuneSettings, lessons: Lessons, molecules: int, device: torch.device, folder: Path
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=max(1, molecules * settings.epochs // lessons.step),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup,
        weight_decay=0.0,
        seed=settings.seed,
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_strategy="no",
        disable_tqdm=True,
        report_to=[],
        use_cpu=device.type == "cpu",
        bf16=device.type == "cuda",
        # named in one process alone, it would be waited for
        ddp_backend=None if lessons.step == settings.batch_size * settings.accumulation else _backend(device),
        # an adapter on the vocabulary head has no part in a step that learns descriptors alone
        ddp_find_unused_parameters=settings.knowledge != "none" and settings.targets == "paper",
        # lessons pass over by themselves what was read before
        ignore_data_skip=True,
        # every process cuts its share out of the stream; batches of unequal length cannot be sent around
        accelerator_config={"dispatch_batches": False},
        remove_unused_columns=False,
        label_names=["labels"],
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # many GPUs are many processes; the Trainer would use threads
    return arguments


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    found = [path.parent for path in (folder / "checkpoints").glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    return max(found, key=lambda path: int(path.name.partition("-")[2]), default=None)


def _is_json(path: Path) -> bool:
    """Whether the file, which is written last, was written to its end."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
