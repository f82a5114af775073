"""Trainings in several processes: results in order, no process left over, and a crash names its run."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from kflm2.errors import KFLM2Error
from kflm2.trainers.jobs import default_jobs, run_jobs, run_stream

# started in a process of its own, which is killed; it takes Ctrl-C also where the tests run in the background
PARENT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from test_jobs import endless
from kflm2.trainers.jobs import run_jobs
list(run_jobs(endless, [1, 2], 2, True, lambda count: None))
"""

# the threads of the first process start before it is forked
THREADED = """
from test_jobs import large
from kflm2.trainers.jobs import run_jobs
large(1, None)
print([round(float(result[-1])) for result in run_jobs(large, [1, 2], 2, True, lambda count: None)])
"""


def squared(task: int, after_epoch: Callable[[], object]) -> tuple[int, int, int]:
    """Takes longer the smaller the task is, so that tasks end in another order than they begin.

    Where $PROCESSES names a folder, a task also waits for a second process: the first could do all before that starts.
    """
    if folder := os.environ.get("PROCESSES"):
        Path(folder, str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(Path(folder).iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    time.sleep(0.2 / task)
    for _ in range(task):
        after_epoch()
    return task * task, os.getpid(), torch.get_num_threads()


def failing(task: int, after_epoch: Callable[[], object]) -> int:
    """An error in one of the tasks; one that is never ended by itself in another."""
    if task == 1:
        raise KFLM2Error("training diverged")
    time.sleep(600)
    return task


def numbered(task: int) -> tuple[int, int]:
    """Takes longer the smaller the task is; a negative one is an error, and zero ends the process."""
    if task < 0:
        raise KFLM2Error("the input is damaged")
    if not task:
        os._exit(1)
    time.sleep(0.2 / task)
    return task, os.getpid()


def first_only(task: int, after_epoch: Callable[[], object]) -> int:
    """The first task ends, no other does."""
    if task > 1:
        time.sleep(600)
    return task


def crashing(task: int, after_epoch: Callable[[], object]) -> int:
    """One task is killed, as by a system that is out of memory."""
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def endless(task: int, after_epoch: Callable[[], object]) -> None:
    """Tell that the task has begun, and never end."""
    print(f"{os.getpid()}\n", end="", flush=True)
    time.sleep(600)


def large(task: int, after_epoch: Callable[[], object]) -> torch.Tensor:
    """A tensor that torch fills with all its threads."""
    return torch.full((3_000_000,), float(task)).exp().log()


@pytest.mark.parametrize("forked", [True, False])
def test_results_come_in_order_and_every_epoch_is_counted(
    forked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "processes"  # an empty one: the cache of a test lies in tmp_path
    folder.mkdir()
    monkeypatch.setenv("PROCESSES", str(folder))
    counted: list[int] = []
    results = list(run_jobs(squared, [1, 2, 3, 4, 5], 2, forked, counted.append))
    assert [result[0] for result in results] == [1, 4, 9, 16, 25]
    assert len({process for _, process, _ in results} | {os.getpid()}) == 3
    assert sum(counted) == 15


def test_a_forked_process_does_not_wait_for_threads_that_it_lacks() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", THREADED], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[1, 2]\n", done.stderr


def test_one_job_or_one_task_stays_in_this_process() -> None:
    for tasks, jobs in (([1, 2], 1), ([2], 4)):
        counted: list[int] = []
        results = list(run_jobs(squared, tasks, jobs, True, counted.append))
        assert {process for _, process, _ in results} == {os.getpid()}
        assert counted == [1] * sum(tasks)


def test_an_error_ends_the_other_processes() -> None:
    before, start = set(multiprocessing.active_children()), time.monotonic()
    with pytest.raises(KFLM2Error, match="training diverged"):
        list(run_jobs(failing, [1, 2], 2, True, lambda count: None))
    assert time.monotonic() - start < 60
    assert not set(multiprocessing.active_children()) - before


def test_the_processes_end_when_the_results_are_not_wanted_any_more() -> None:
    before, start = set(multiprocessing.active_children()), time.monotonic()
    with contextlib.closing(run_jobs(first_only, [1, 2, 3, 4], 2, True, lambda count: None)) as results:
        assert next(results) == 1
    assert time.monotonic() - start < 60
    assert not set(multiprocessing.active_children()) - before


def test_a_crash_names_the_run() -> None:
    results = run_jobs(crashing, [1, 3], 2, True, lambda count: None, lambda task: f"seed {task}")
    with pytest.raises(KFLM2Error, match=r"trained seed 3 has died .*--jobs 1"):
        list(results)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_first_one(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    workers = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
    parent.send_signal(number)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert parent.wait(timeout=30) != 0
    parent.stdout.close()


def test_there_is_one_process_a_core_and_fewer_of_more_threads() -> None:
    assert default_jobs() >= 1
    assert default_jobs(10_000) == 1


@pytest.mark.parametrize("forked", [True, False])
def test_a_stream_is_done_in_order_by_several_processes(forked: bool) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(1, 31):
            taken.append(task)
            yield task

    results = run_stream(numbered, tasks(), 2, forked)
    first = next(results)
    assert len(taken) < 10  # a stream of any length is not read to its end before anything is done
    done = [first, *results]
    assert [task for task, _ in done] == list(range(1, 31))
    assert len({process for _, process in done}) == 2
    assert os.getpid() not in {process for _, process in done}


@pytest.mark.parametrize(("tasks", "jobs"), [([1, 2, 3], 1), ([5], 4), ([], 4)])
def test_one_process_or_one_task_is_done_here(tasks: list[int], jobs: int) -> None:
    assert list(run_stream(numbered, tasks, jobs, True)) == [(task, os.getpid()) for task in tasks]


def test_a_stream_ends_with_its_error_and_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    results = run_stream(numbered, [1, 2, -1, 3], 2, True)
    assert [next(results)[0], next(results)[0]] == [1, 2]
    with pytest.raises(KFLM2Error, match="the input is damaged"):
        next(results)
    with pytest.raises(KFLM2Error, match=r"a process has died .*--jobs 1"):
        list(run_stream(numbered, [1, 0, 2], 2, True))
    assert not set(multiprocessing.active_children()) - before
