"""Stage 3: fine-tuning of an LLM that answers a prompt with a property."""

import math
import tempfile
from collections.abc import Iterator

import torch
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from kflm2.errors import LLMError
from kflm2.llm.decoding import IGNORE
from kflm2.llm.prompter import Prompter, Row
from kflm2.progress import Progress
from kflm2.trainers.lora.model import LoRAModel


class _Best(TrainerCallback):
    """Computes the validation loss after every epoch and stores the weights of the best one."""

    def __init__(self, model: LoRAModel, prompter: Prompter, valid: list[Row], epochs: int) -> None:
        self.model, self.prompter, self.valid = model, prompter, valid
        self.losses: list[float] = []
        self.best: dict[str, torch.Tensor] = {}
        self.bar = Progress(total=epochs, desc="prompts", unit="epoch")

    def on_epoch_end(self, *_: object, **__: object) -> None:
        labels = sum(label != IGNORE for row in self.valid for label in row.labels[1:])
        loss = -float(self.prompter.log_likelihoods(self.valid).sum()) / labels
        # a loss of NaN is never better
        if loss < min([value for value in self.losses if math.isfinite(value)], default=math.inf):
            self.best = {name: weight.detach().clone() for name, weight in _trainable(self.model)}
        self.losses.append(loss)
        self.bar.update()
        self.bar.set_postfix_str(f"valid loss {loss:.3f}")

    def on_train_end(self, *_: object, **__: object) -> None:
        self.bar.close()


def _trainable(model: LoRAModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def tune_prompts(
    model: LoRAModel,
    prompter: Prompter,
    train: list[Row],
    valid: list[Row],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> list[float]:
    """Fine-tune an LLM on prompts with answers; the model ends with the weights of the best validation loss.

    Args:
        model: with a new adapter; the prompter uses the same LLM.
        prompter: see Prompter.
        train: training rows.
        valid: validation rows, which choose the epoch.
        epochs: number of passes, at least one.
        batch_size: rows per step.
        learning_rate: maximum of the schedule.
        seed: of order and dropout.

    Returns:
        Validation loss per token after each epoch.

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
            data_collator=lambda rows: prompter.collate([Row(row["input_ids"], row["labels"]) for row in rows]),
            callbacks=[best],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if not best.best:
        raise LLMError("no epoch gave a finite validation loss; lower --learning-rate")
    with torch.no_grad():
        for name, weight in _trainable(model):
            weight.copy_(best.best[name])
    return best.losses
