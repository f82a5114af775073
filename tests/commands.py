"""Commands as a user gives them, run within this process: a new one would spend seconds on importing torch.

Where the process itself is what is tested - signals, pipes, several processes at a time - tests start one.
"""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kflm2.cli import main as command_line
from kflm2.cli.command import Stage

ROOT = Path(__file__).parents[1]
KFLM2 = str(Path(sys.executable).with_name("kflm2"))
"""The program, for a process of its own."""


def one_thread(**more: str) -> dict[str, str]:
    """The environment of a process that computes with one thread, as this one does."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def status_of(stage: Stage, *arguments: object) -> int:
    """Exit status of a stage; what it prints is printed."""
    return _status(lambda: stage.from_command_line(list(map(str, arguments))))


def kflm2(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command `kflm2`."""
    return _completed(command_line.main, "kflm2", *arguments, cwd=cwd)


def script(name: str | Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A Python script, given by its path from the project's folder or by an absolute one."""
    path = str(ROOT / name)
    return _completed(lambda: runpy.run_path(path, run_name="__main__"), path, *arguments, cwd=cwd)


def _completed(run: Callable[[], object], *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        argv = list(map(str, words))
        patch.setattr(sys, "argv", argv)
        status = _status(run)
    return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())


def _status(run: Callable[[], object]) -> int:
    try:
        run()
    except SystemExit as stop:
        if isinstance(stop.code, str):  # as Python ends with a sentence
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    return 0
