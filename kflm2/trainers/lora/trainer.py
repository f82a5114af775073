"""Stage 1: transformers' Trainer teaches an LLM with a LoRA adapter, with checkpoints to resume from."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kflm2.config.finetune import FinetuneConfig
from kflm2.errors import DataError, LLMError
from kflm2.trainers.lora.callbacks import Curve, RandomState, Stop
from kflm2.trainers.lora.dataset import Collator, CorpusDataset

if TYPE_CHECKING:
    pass
from kflm2.trainers.lora.model import LoRAModel


class LoRATrainer(Trainer):
    """transformers' Trainer, that writes adapter and head rather than a whole model."""

    model: LoRAModel

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
    model: LoRAModel,
    dataset: CorpusDataset,
    collator: Collator,
    molecules: int,
    config: FinetuneConfig,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Teach, with a checkpoint every so many steps, from the last one where that is asked for.

    Args:
        model: with a fresh adapter.
        dataset: what to read.
        collator: makes tensors of it.
        molecules: in an epoch.
        config: see FinetuneConfig.
        folder: of checkpoints and losses.csv.
        callbacks: called beside its own.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
        DataError: the disk is full; the last good checkpoint stays.
    """
    arguments = _arguments(config, dataset, molecules, next(model.parameters()).device, folder)
    last = last_checkpoint(folder) if config.resume else None
    if last is not None:
        done = json.loads((last / "trainer_state.json").read_text())["global_step"]
        if done >= arguments.max_steps:
            model.restore(last)
            return
        dataset.start = done * dataset.step
    stop = Stop()
    trainer = LoRATrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[Curve(lambda: model.losses, folder / "losses.csv", dataset.step), stop, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    model.molecules = dataset.step
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
    config: FinetuneConfig, dataset: CorpusDataset, molecules: int, device: torch.device, folder: Path
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=max(1, molecules * config.epochs // dataset.step),
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        weight_decay=0.0,
        seed=config.seed,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_strategy="no",
        disable_tqdm=True,
        report_to=[],
        use_cpu=device.type == "cpu",
        bf16=device.type == "cuda",
        # named in one process alone, it would be waited for
        ddp_backend=None if dataset.step == config.batch_size * config.accumulation else _backend(device),
        # an adapter on the vocabulary head has no part in a step that learns descriptors alone
        ddp_find_unused_parameters=config.knowledge != "none" and config.targets == "paper",
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
