"""Stage 1: fine-tuning of an LLM with a LoRA adapter by transformers' Trainer, with checkpoints to resume from."""

import gc
import json
import math
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kflm2.config.finetune import FinetuneConfig
from kflm2.errors import DataError, LLMError
from kflm2.trainers.lora.callbacks import Curve, RandomState, Stop
from kflm2.trainers.lora.dataset import Collator, CorpusDataset
from kflm2.trainers.lora.model import LoRAModel


class LoRATrainer(Trainer):
    """transformers' Trainer, but checkpoints contain the adapter and the head instead of the whole model."""

    model: LoRAModel

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.model.step = self.state.global_step
        loss = super().training_step(*args, **kwargs)
        if not all(math.isfinite(value) for value in self.model.losses.values()):
            # stop before a diverged checkpoint replaces a good one
            last = last_checkpoint(Path(str(self.args.output_dir)).parent)
            raise LLMError(
                f"the loss is not a number at step {self.state.global_step + 1}; lower --learning-rate"
                + (f" (the last good checkpoint is {last})" if last else "")
            )
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.is_fsdp_enabled:  # each process has a part of the weights; see LoRAModel.gather
            return
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own error types
            checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(checkpoint, ignore_errors=True)
            last = last_checkpoint(checkpoint.parent.parent)
            hint = f"--resume goes on from {last}" if last else "there is no earlier one"
            raise DataError(
                f"checkpoint {checkpoint} cannot be written: {str(error).splitlines()[0]}; {hint}"
            ) from None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        self.model.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.restore(Path(resume_from_checkpoint))


def finetune(
    model: LoRAModel,
    dataset: CorpusDataset,
    collator: Collator,
    molecules: int,
    config: FinetuneConfig,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Fine-tune an LLM, with a checkpoint every `save_steps` steps; with `resume`, continue from the last one.

    Args:
        model: with a new adapter.
        dataset: stream of training molecules.
        collator: turns molecules into tensors.
        molecules: molecules per epoch.
        config: see FinetuneConfig.
        folder: for checkpoints and losses.csv.
        callbacks: additional callbacks.

    Raises:
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
        DataError: the disk is full; the last good checkpoint is preserved.
        LLMError: training diverged.
    """
    _train(model, dataset, collator, molecules, config, folder, callbacks)
    model.gather()
    _end_process_group()


def _train(
    model: LoRAModel,
    dataset: CorpusDataset,
    collator: Collator,
    molecules: int,
    config: FinetuneConfig,
    folder: Path,
    callbacks: Sequence[TrainerCallback],
) -> None:
    arguments = _arguments(config, dataset, molecules, next(model.parameters()).device, folder)
    last = _to_resume_from(folder) if config.resume else None
    if last is not None:
        done = json.loads((last / "trainer_state.json").read_text())["global_step"]
        if done >= arguments.max_steps:
            model.restore(last)
            return
        dataset.start = done * dataset.step
    stop = Stop()
    curve = Curve(lambda: model.losses, model.loss_names, folder / "losses.csv", dataset.step)
    trainer = LoRATrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[curve, stop, *callbacks],
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
        last = last_checkpoint(folder)
        hint = f"--resume goes on from {last}" if last else "there is no checkpoint yet"
        raise DataError(f"{folder} cannot be written: {error}; {hint}") from None
    if stop.requested:
        print(f"stopped; --resume goes on from {last_checkpoint(folder)}", flush=True)
        raise KeyboardInterrupt


def _end_process_group() -> None:
    """End the communication between processes.

    A thread of gloo that releases a finished all-reduce while Python shuts down aborts the process (pull request 179291
    of PyTorch). The threads end with the last reference to the group, and DistributedDataParallel, which has one, is
    part of a reference cycle.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


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
        bf16=device.type == "cuda" or config.precision == "mixed",
        # set only for several processes: a single process would wait for others
        ddp_backend=None if dataset.step == config.batch_size * config.accumulation else _backend(device),
        # an adapter on the vocabulary head gets no gradient in a step that has only the loss of knowledge
        ddp_find_unused_parameters=bool(config.knowledge) and config.targets == "paper",
        # CorpusDataset itself skips the molecules before the checkpoint
        ignore_data_skip=True,
        # every process reads its share of the stream; batches of unequal length cannot be dispatched from one process
        accelerator_config={"dispatch_batches": False},
        remove_unused_columns=False,
        label_names=["labels"],
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process per GPU; the Trainer would use threads
    return arguments


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; None if there is none."""
    return next(iter(_checkpoints(folder)), None)


def _checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, the newest first."""
    states = (folder / "checkpoints").glob("checkpoint-*/trainer_state.json")
    complete = [path.parent for path in states if _is_json(path)]
    return sorted(complete, key=lambda path: -int(path.name.partition("-")[2]))


def _to_resume_from(folder: Path) -> Path | None:
    """The newest checkpoint whose files are whole; None if there is no checkpoint.

    Raises:
        DataError: all are damaged.
    """
    checkpoints = _checkpoints(folder)
    for checkpoint in checkpoints:
        if not (damaged := [path.name for path in sorted(checkpoint.iterdir()) if _is_damaged(path)]):
            return checkpoint
        print(f"damaged checkpoint {checkpoint}: {', '.join(damaged)} cannot be read", flush=True)
    if checkpoints:
        raise DataError(f"no checkpoint in {folder} can be read; start anew, without --resume")
    return None


def _is_damaged(path: Path) -> bool:
    """Whether a file of weights was cut: both formats say at their ends, or beginnings, how long they are."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):
                return False
        except (SafetensorError, OSError):
            return True
    return path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path)


def _is_json(path: Path) -> bool:
    """Whether the last file of a checkpoint was written completely."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
