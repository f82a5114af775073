"""Trainer callbacks of stage 1: stop at Ctrl-C, log the losses, restore the random state when resuming."""

import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from kflm2.files import write_text
from kflm2.progress import Progress


class RandomState(TrainerCallback):
    """Restores the random state that was saved with the checkpoint.

    transformers does this only when it skips the data itself; and it must be done after the data loader has started,
    since the start draws a random number.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.trainer: Trainer | None = None

    def on_step_begin(self, *_: object, **__: object) -> None:
        if self.trainer is not None:
            self.trainer._load_rng_state(str(self.checkpoint))
            self.trainer = None


class Stop(TrainerCallback):
    """Ctrl-C ends training after the current step, with a checkpoint from which --resume continues."""

    def __init__(self) -> None:
        self.requested = False
        self._previous_handler: Any = None

    def on_train_begin(self, *_: object, **__: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._request)

    def _request(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self._previous_handler)  # a second Ctrl-C stops at once

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        requested = self.requested
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # all processes stop at the same step, whichever of them received the signal
            flag = torch.tensor(float(requested), device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            requested = self.requested = bool(flag.item())
        if requested:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: object, **__: object) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)


class Curve(TrainerCallback):
    """Losses of each step, of the first process, written to losses.csv and shown beside a bar of molecules."""

    def __init__(self, losses: Callable[[], dict[str, float]], names: Sequence[str], path: Path, step: int) -> None:
        self.losses, self.names, self.path, self.step = losses, names, path, step
        self.bar: Progress | None = None
        self.labels: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        if state.is_world_process_zero:
            if self.path.exists():  # the steps after the checkpoint are repeated
                lines = self.path.read_text(encoding="utf-8").splitlines()
                finished = [line for line in lines[1:] if int(line.partition(",")[0]) <= state.global_step]
                write_text(self.path, "".join(f"{line}\n" for line in lines[:1] + finished))
            total, done = state.max_steps * self.step, state.global_step * self.step
            self.bar = Progress(total=total, initial=done, desc="fine-tuning", unit="mol")

    def on_train_end(self, *_: object, **__: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        if state.is_world_process_zero:
            losses = self.losses()
            if self.bar is not None:
                self.bar.update(self.step)
                self.labels |= {name: f"{name} {value:.2f}" for name, value in losses.items()}
                self.bar.set_postfix_str(", ".join(self.labels.values()))
            header = "" if self.path.exists() and self.path.stat().st_size else ",".join(["step", *self.names]) + "\n"
            values = ",".join(f"{losses[name]:.6g}" if name in losses else "" for name in self.names)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{header}{state.global_step},{values}\n")
