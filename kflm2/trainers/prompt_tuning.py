"""Stage 3: an LLM learns to answer a prompt with a property."""

import math
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from kflm2.errors import LLMError
from kflm2.llm.decoding import IGNORE
from kflm2.trainers.lora.model import LoRAModel

if TYPE_CHECKING:
    pass
from kflm2.llm.prompter import Prompter, Row


class _Best(TrainerCallback):
    """Judges the LLM on validation after every epoch, and remembers the adapter that was best."""

    def __init__(self, model: LoRAModel, prompter: Prompter, valid: list[Row], epochs: int) -> None:
        self.model, self.prompter, self.valid = model, prompter, valid
        self.losses: list[float] = []
        self.best: dict[str, torch.Tensor] = {}
        self.bar = tqdm(total=epochs, desc="prompts", unit="epoch")

    def on_epoch_end(self, *_: object, **__: object) -> None:
        labels = sum(own != IGNORE for row in self.valid for own in row.labels[1:])
        loss = -float(self.prompter.log_likelihoods(self.valid).sum()) / labels
        # not a number is never better
        if loss < min([own for own in self.losses if math.isfinite(own)], default=math.inf):
            self.best = {name: weight.detach().clone() for name, weight in _trained(self.model)}
        self.losses.append(loss)
        self.bar.update()
        self.bar.set_postfix_str(f"valid loss {loss:.3f}")

    def on_train_end(self, *_: object, **__: object) -> None:
        self.bar.close()


def _trained(model: LoRAModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def teach(
    model: LoRAModel,
    prompter: Prompter,
    train: list[Row],
    valid: list[Row],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> list[float]:
    """Teach prompts' answers, and leave the adapter of the epoch that was best on validation.

    Args:
        model: with a fresh adapter; the prompter asks the same LLM.
        prompter: see Prompter.
        train: to learn.
        valid: to choose the epoch by.
        epochs: passes, at least one.
        batch_size: rows in a step.
        learning_rate: largest one.
        seed: of order and dropout.

    Returns:
        Validation loss a token after each epoch.

    Raises:
        LLMError: training diverged.
    """
    device = prompter.llm.device
    best = _Best(model, prompter, valid, epochs)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.0,
            seed=seed,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to=[],
            use_cpu=device.type == "cpu",
            bf16=device.type == "cuda",
            remove_unused_columns=False,
            label_names=["labels"],
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": row.ids, "labels": row.labels} for row in train],
            data_collator=lambda own: prompter.collate([Row(one["input_ids"], one["labels"]) for one in own]),
            callbacks=[best],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if not best.best:
        raise LLMError("no epoch gave a finite validation loss; lower --learning-rate")
    with torch.no_grad():
        for name, weight in _trained(model):
            weight.copy_(best.best[name])
    return best.losses
