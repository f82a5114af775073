"""Work in several processes, trainings above all: the results are those of one after another, in their order."""

import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

import joblib

from kflm2.errors import KFLM2Error

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task, Callable[[], object]], Result]
"""Trains what a task says, and calls the function after each epoch."""

_POLL = 0.2
"""Seconds between two looks at the processes."""
_WAITING, _STARTED, _DONE = range(3)
_AHEAD = 2
"""Tasks of a stream that are given out at once, per process, so that none waits for the next one."""


class _Shared(NamedTuple):
    """What all processes see. There is no lock in it: a process that is killed would keep it."""

    epochs: Any
    """Epochs that were trained of each task."""
    states: Any
    """Of each task."""
    stop: Connection
    """As soon as there is something to read, the processes end."""


def default_jobs(threads: int = 1) -> int:
    """One process for each physical core that this process may use and that no other thread works on."""
    return max(1, int(joblib.cpu_count(only_physical_cores=True)) // threads)


def run_jobs(
    work: Work[Task, Result],
    tasks: Sequence[Task],
    jobs: int,
    forked: bool,
    after_epoch: Callable[[int], object],
    title: Callable[[Task], str] = str,
) -> Generator[Result, None, None]:
    """Train every task; yields the results in the order of the tasks, each as soon as it and those before are there.

    When the generator is closed, or this process is killed, the other processes end too. Close it: else this process
    ends only after all tasks.

    Args:
        work: a function that can be pickled; it sets its number of threads itself.
        tasks: what to train.
        jobs: processes; with 1, or one task, all is done in this process.
        forked: whether processes may be forked where the system can: they start at once and share the memory of this
            process. Not with a GPU nor with more than one thread, which a forked process can lose.
        after_epoch: called with the number of epochs that were trained since the last call.
        title: names a task in an error message.

    Raises:
        KFLM2Error: of a task, or a process has died.
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        for task in tasks:
            yield work(task, lambda: after_epoch(1))
        return
    with _processes(work, jobs, forked, len(tasks)) as (pool, shared):
        yield from _results(pool, shared, tasks, after_epoch, title)


def run_stream(
    work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int, forked: bool
) -> Generator[Result, None, None]:
    """Do any number of tasks, few of which are in memory at once; else as run_jobs.

    Args:
        work: a function that can be pickled.
        tasks: read as processes become free.
        jobs: processes; with 1, or one task, all is done in this process.
        forked: see run_jobs.

    Raises:
        KFLM2Error: of a task, or a process has died.
    """
    if jobs <= 1:
        yield from map(work, tasks)
        return
    tasks = iter(tasks)
    first = list(itertools.islice(tasks, 2))
    tasks = itertools.chain(first, tasks)
    if len(first) < 2:
        yield from map(work, tasks)
        return
    with _processes(work, jobs, forked, 0) as (pool, _):
        futures: deque[Future[Any]] = deque()
        try:
            for task in tasks:
                futures.append(pool.submit(_do_task, task))
                if len(futures) > _AHEAD * jobs:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        except BrokenProcessPool:
            raise KFLM2Error(
                "a process has died (the system may have ended it for want of memory); --jobs 1 takes the least memory"
            ) from None


@contextlib.contextmanager
def _processes(
    work: Callable[..., Any], jobs: int, forked: bool, tasks: int
) -> Iterator[tuple[ProcessPoolExecutor, _Shared]]:
    """Processes that do the work, and end with this one or when the context is left by an exception."""
    context = multiprocessing.get_context("fork" if forked and sys.platform == "linux" else "spawn")
    stop, stopper = context.Pipe(duplex=False)
    shared = _Shared(context.RawArray("q", tasks), context.RawArray("b", tasks), stop)
    pool = ProcessPoolExecutor(jobs, context, _begin, (work, shared))
    try:
        yield pool, shared
    except BaseException:
        stopper.send(None)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor,
    shared: _Shared,
    tasks: Sequence[Task],
    after_epoch: Callable[[int], object],
    title: Callable[[Task], str],
) -> Iterator[Any]:
    futures = [pool.submit(_do, index, task) for index, task in enumerate(tasks)]
    counted = 0
    for future in futures:
        while True:
            wait([future], timeout=_POLL)
            new = sum(shared.epochs) - counted
            after_epoch(new)
            counted += new
            if future.done():
                break
        try:
            yield pickle.loads(future.result())  # noqa: S301, it comes from a process of our own
        except BrokenProcessPool:
            running = [title(task) for task, state in zip(tasks, shared.states, strict=True) if state == _STARTED]
            raise KFLM2Error(
                f"a process that trained {' or '.join(running) or 'models'} has died (the system may have ended it for"
                " want of memory); what is finished is kept, and --jobs 1 takes the least memory"
            ) from None


_work: Callable[..., Any]
_shared: _Shared


def _begin(work: Callable[..., Any], shared: _Shared) -> None:
    """Prepare a process of the pool."""
    global _work, _shared
    _work, _shared = work, shared
    if "torch" in sys.modules:  # a process that only reads molecules starts without PyTorch
        sys.modules["torch"].set_num_threads(1)  # a forked process waits for ever for the other threads of the first
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    threading.Thread(target=_end_with_parent, args=(shared.stop,), daemon=True).start()


def _end_with_parent(stop: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([stop, parent.sentinel])
    os._exit(1)


def _do(index: int, task: Any) -> bytes:
    def after_epoch() -> None:
        _shared.epochs[index] += 1

    _shared.states[index] = _STARTED
    result = _work(task, after_epoch)
    _shared.states[index] = _DONE
    # as bytes: tensors would be sent as files in shared memory, of which a system has few
    return pickle.dumps(result)


def _do_task(task: Any) -> Any:
    return _work(task)
