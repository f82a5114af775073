"""What happens between the steps of stage 1: Ctrl-C, losses, random numbers that go on where they were."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import Trainer, TrainerCallback, TrainingArguments

from kflm2.files import write_text


class RandomState(TrainerCallback):
    """Puts random numbers back to where they were when the checkpoint was written.

    transformers does so only where it passes over the data itself; and it must come after the data loader, which draws
    a number when it starts.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.trainer: Trainer | None = None

    def on_step_begin(self, *_: object, **__: object) -> None:
        if self.trainer is not None:
            self.trainer._load_rng_state(str(self.checkpoint))
            self.trainer = None


class Stop(TrainerCallback):
    """Ctrl-C ends training after the step at work, with a checkpoint that --resume goes on from."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def on_train_begin(self, *_: object, **__: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, self._before)  # a second one does not wait

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        asked = self.asked
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # all processes stop at the same step, whichever of them heard it
            heard = torch.tensor(float(asked), device=args.device)
            torch.distributed.all_reduce(heard, torch.distributed.ReduceOp.MAX)
            asked = self.asked = bool(heard.item())
        if asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: object, **__: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class Curve(TrainerCallback):
    """Losses over the steps, kept in losses.csv and shown beside a bar of molecules."""

    def __init__(self, losses: Callable[[], dict[str, float]], path: Path, step: int) -> None:
        self.losses, self.path, self.step = losses, path, step
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        if state.is_world_process_zero:
            if self.path.exists():  # what came after the checkpoint is done again
                rows = self.path.read_text(encoding="utf-8").splitlines()
                kept = [row for row in rows[1:] if int(row.partition(",")[0]) <= state.global_step]
                write_text(self.path, "".join(f"{row}\n" for row in rows[:1] + kept))
            total, done = state.max_steps * self.step, state.global_step * self.step
            self.bar = tqdm(total=total, initial=done, desc="teaching", unit="mol")

    def on_train_end(self, *_: object, **__: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: object) -> None:
        if state.is_world_process_zero:
            losses = self.losses()
            if self.bar is not None:
                self.bar.update(self.step)
                self.shown |= {name: f"{name} {value:.2f}" for name, value in losses.items()}
                self.bar.set_postfix_str(", ".join(self.shown.values()))
            head = "" if self.path.exists() and self.path.stat().st_size else ",".join(["step", *losses]) + "\n"
            names = self.path.open(encoding="utf-8").readline().strip().split(",")[1:] if not head else list(losses)
            values = ",".join(f"{losses[name]:.6g}" if name in losses else "" for name in names)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{head}{state.global_step},{values}\n")
