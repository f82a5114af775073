"""A process that holds the model and answers one question at a time.

It is a process of its own so that a question that takes too long can be stopped, and so that a fault in a library that
ends a process does not end the page.
"""

import contextlib
import multiprocessing
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from kflm2.config.serve import ServeConfig
from kflm2.errors import KFLM2Error

_SPAWN = multiprocessing.get_context("spawn")


class OverdueError(KFLM2Error):
    """The answer took too long; the worker was stopped, and another one begins."""


class BrokenError(KFLM2Error):
    """The worker could not answer, for a reason that is not in the question."""


class Worker:
    """The process, seen from outside."""

    def __init__(self, config: ServeConfig) -> None:
        """Start the process, and wait until it has loaded the model.

        Args:
            config: checked.

        Raises:
            KFLM2Error: the model cannot be used.
        """
        self._config, self._lock, self._closed = config, threading.Lock(), False
        self._start()
        self.about = self._load()

    def ask(self, method: str, question: dict[str, Any]) -> Any:
        """The answer of a method of Answers.

        Args:
            method: its name.
            question: its arguments.

        Raises:
            KFLM2Error: the question cannot be answered.
            OverdueError: it took longer than the time limit.
            BrokenError: the process ended, or has a fault.
        """
        with self._lock:
            if self._closed:
                raise BrokenError("kflm2 serve has ended")
            try:
                if not self._ready:
                    self._load()
                self._pipe.send((method, question))
                if not self._pipe.poll(self._config.time_limit):
                    raise OverdueError(
                        f"it took more than {self._config.time_limit:g} s and was stopped; send fewer or smaller"
                        " molecules, or use kflm2 predict"
                    )
                kind, value = self._pipe.recv()
            except (EOFError, OSError):
                self._start_again()
                ended = "kflm2 serve has ended" if self._closed else "the process of the model ended; it starts again"
                raise BrokenError(ended) from None
            except KFLM2Error:
                self._start_again()
                raise
        if kind == "refused":
            raise KFLM2Error(value)
        if kind == "fault":
            print(value, file=sys.stderr, flush=True)
            raise BrokenError("an unexpected fault; the window of kflm2 serve tells more")
        return value

    def close(self) -> None:
        """End the process; whoever waits for its answer gets a BrokenError."""
        self._closed = True
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._ready = False
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(self._config, theirs), daemon=True)
        with _without_ctrl_c():
            self._process.start()
        theirs.close()

    def _start_again(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
        if not self._closed:
            self._start()

    def _load(self) -> dict[str, Any]:
        """Wait for the model; what a new process says of it.

        Raises:
            BrokenError: it cannot be loaded.
        """
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            raise BrokenError("the process of the model ended while it loaded the model") from None
        if kind != "about":
            raise BrokenError(value)
        self._ready = True
        about: dict[str, Any] = value
        return about


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal; a process that starts meanwhile does not hear it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(config: ServeConfig, pipe: Connection) -> None:
    """Load the model, and answer until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from tqdm import tqdm

    from kflm2.stages.serve.answers import Answers

    # its usual lock, of the system, would be reported as lost where this process is killed
    tqdm.set_lock(threading.RLock())
    try:
        answers = Answers(config)
    except (KFLM2Error, OSError) as error:
        pipe.send(("refused", str(error)))
        return
    with contextlib.suppress(EOFError, OSError):
        pipe.send(("about", answers.about()))
        while True:
            method, question = pipe.recv()
            pipe.send(_answer(answers, method, question))


def _answer(answers: Any, method: str, question: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "answer", getattr(answers, method)(**question)
    except KFLM2Error as error:
        return "refused", str(error)
    except Exception:
        return "fault", traceback.format_exc()
