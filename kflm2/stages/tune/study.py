"""A search over settings that several processes can share; trials of killed processes are repeated."""

import contextlib
import functools
import itertools
import json
import math
import socket
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from kflm2.config.tune import check_choice, is_whole
from kflm2.errors import DataError, KFLM2Error, SettingError
from kflm2.files import read_toml, sha256_texts
from kflm2.stages.tune.sampler import Sampler, counts

_POLL = 0.5
"""Seconds between checks of the trials of other processes."""


@dataclass(frozen=True)
class Space:
    """The search space: setting -> choices or range."""

    parameters: dict[str, BaseDistribution]

    @property
    def sha256(self) -> str:
        """Digest of names, choices and ranges."""
        return sha256_texts(f"{name} {distribution!r}" for name, distribution in sorted(self.parameters.items()))

    def without(self, names: Collection[str]) -> "Space":
        """The space without some settings, which are fixed.

        Raises:
            SettingError: nothing is left to choose.
        """
        left = {name: choices for name, choices in self.parameters.items() if name not in names}
        if not left:
            raise SettingError(f"nothing is left to search for: {', '.join(self.parameters)} given, and so fixed")
        return Space(left)

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the values.

        Raises:
            SettingError: a range has no step.
        """
        values = {name: _values(name, distribution) for name, distribution in self.parameters.items()}
        return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def _values(name: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None or distribution.log:
        raise SettingError(f"space: {name} has no steps, so that no grid can be laid; give choices or a step")
    number = int((high - low) / step + 1e-9) + 1
    return [type(low)(round(low + i * step, 12)) for i in range(number)]


def read_space(path: Path, allowed: tuple[str, ...]) -> Space:
    """A space from TOML: one table per setting, with choices, or with from and to and optionally step or scale = "log".

    Raises:
        SettingError: it cannot be used; the message gives the reason.
    """
    table = read_toml(path, "space", SettingError)
    if not table:
        raise SettingError(f"space {path}: nothing to choose from")
    parameters = {}
    for name, entry in table.items():
        if name not in allowed:
            raise SettingError(f"space {path}: {name!r} is no setting to choose; there are: {', '.join(allowed)}")
        try:
            parameters[name] = _distribution(name, entry)
        except (ValueError, TypeError, KeyError) as error:
            raise SettingError(f"space {path}: {name}: {error}") from None
    return Space(parameters)


def _distribution(name: str, entry: Any) -> BaseDistribution:
    if not isinstance(entry, dict) or not (set(entry) == {"choices"} or {"from", "to"} <= set(entry)):
        raise ValueError("give choices, or from and to")
    if "choices" in entry:
        if not isinstance(entry["choices"], list):
            raise ValueError('give choices as a list, such as ["gcn", "gine"]')
        for choice in entry["choices"]:
            check_choice(name, choice)
        return CategoricalDistribution(entry["choices"])
    if unknown := sorted(set(entry) - {"from", "to", "step", "scale"}):
        raise ValueError(f"unknown key {unknown[0]!r}; there are choices, from, to, step, scale")
    if (scale := entry.get("scale", "linear")) not in ("linear", "log"):
        raise ValueError(f"scale {scale!r}: there are linear and log")
    low, high, step = entry["from"], entry["to"], entry.get("step")
    for value in (low, high) if step is None else (low, high, step):
        if isinstance(value, str | bool):
            raise ValueError("a range is of numbers; give choices")
        check_choice(name, value)
    if is_whole(name):
        return IntDistribution(low, high, log=scale == "log", step=step or 1)
    return FloatDistribution(float(low), float(high), log=scale == "log", step=None if step is None else float(step))


class _Lock(JournalFileOpenLock):
    """A lock that the operating system releases when its process ends; Optuna's own waits 30 s for a killed one."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


@dataclass(frozen=True)
class Search:
    """A study on disk or in a database, with its search space."""

    study: optuna.Study
    space: Space
    lock: FileLock | None
    """Acquired while a trial is started; None for a database, which has locks of its own."""

    def run(self, trials: int, objective: Callable[[Trial, dict[str, Any]], float]) -> Iterator[FrozenTrial]:
        """Run trials until the study has a number of finished trials, those of other processes included.

        Args:
            trials: number of completed, pruned or failed trials.
            objective: value of a trial and its chosen settings; a KFLM2Error or NaN counts as a failed trial.

        Yields:
            Each trial that this process finished.
        """
        while (trial := self._take(trials)) is not None:
            if trial is _BUSY:
                time.sleep(_POLL)
                continue
            assert isinstance(trial, Trial)
            try:
                value = objective(trial, dict(trial.params))
            except optuna.TrialPruned:
                yield self.study.tell(trial, state=TrialState.PRUNED)
            except KFLM2Error as error:
                trial.set_user_attr("failed", str(error))
                yield self.study.tell(trial, state=TrialState.FAIL)
            except BaseException:
                # interrupted, not failed: the same settings are tried again when the study is resumed
                self._give_back(trial.number, trial.params)
                raise
            else:
                if math.isfinite(value):
                    yield self.study.tell(trial, value)
                else:
                    trial.set_user_attr("failed", trial.user_attrs.get("undefined", "its predictions are no numbers"))
                    yield self.study.tell(trial, state=TrialState.FAIL)

    def finished(self) -> list[FrozenTrial]:
        """Trials that count: completed, pruned, or failed because of their settings, not because of an interruption."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if counts(trial)]

    def _take(self, trials: int) -> "Trial | object | None":
        """The next trial; _BUSY if other processes run the last ones; None if all are finished."""
        with self.lock or contextlib.nullcontext():
            running = []
            for active in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if _is_lost(active):
                    self._give_back(active.number, active.params)
                else:
                    running.append(active)
            left = trials - len(self.finished())
            if left <= 0:
                return None
            if len(running) >= left:
                return _BUSY
            trial = self.study.ask(self.space.parameters)
            process = psutil.Process()
            trial.set_user_attr("process", [socket.gethostname(), process.pid, process.create_time()])
            return trial

    def _give_back(self, number: int, chosen: dict[str, Any]) -> None:
        """End an interrupted trial, and enqueue its settings again."""
        if chosen:
            self.study.enqueue_trial(chosen)
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


_BUSY = object()


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether the process that runs a trial has ended; a process on another machine is assumed to run."""
    process = trial.user_attrs.get("process")
    if process is None:  # killed before it recorded itself in the trial
        return trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() > 60
    host, pid, created = process
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(pid).create_time() - created) > 1
    except psutil.NoSuchProcess:
        return True


def open_search(
    folder: Path,
    storage: str | None,
    name: str,
    space: Space,
    sampler: str,
    identity: dict[str, Any],
    minimize: bool,
    prune: bool,
    seed: int,
) -> Search:
    """Open the study of a folder or database; create it if it does not exist.

    Args:
        folder: of the journal file and its locks.
        storage: URL of a database to use instead; None for the journal file.
        name: of the study.
        space: search space.
        sampler: tpe, random or grid.
        identity: what else must be equal for trials to be comparable: dataset, split and fixed settings.
        minimize: whether smaller is better.
        prune: stop trials that are worse than the median.
        seed: of the sampler.

    Raises:
        DataError: the journal is damaged.
        SettingError: the existing study was created with another identity, space or sampler.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "study.lock")
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if prune else optuna.pruners.NopPruner()
    path = folder / "study.journal"
    with lock:
        backend: Any = storage
        try:
            if storage is None:
                backend = JournalStorage(JournalFileBackend(str(path), _Lock(folder / "study.journal.lock")))
            create = functools.partial(
                optuna.create_study,
                storage=backend,
                study_name=name,
                sampler=Sampler(sampler, seed),
                pruner=pruner,
                direction="minimize" if minimize else "maximize",
                load_if_exists=True,
            )
            study = create() if storage is None else _created(create, storage)
        except (json.JSONDecodeError, ValueError) as error:
            raise DataError(f"study {path}: line {_damaged(path)} is damaged ({error})") from None
        full_identity = {**identity, "space": space.sha256, "sampler": sampler}
        if not _is_begun(study, full_identity, storage or str(path), "--storage" if storage else "--out"):
            # some may be there, of a process that was killed here
            there = {_key(trial.system_attrs.get("fixed_params", {})) for trial in study.get_trials(deepcopy=False)}
            for combination in space.grid() if sampler == "grid" else ():
                if _key(combination) not in there:
                    study.enqueue_trial(combination)
            study.set_user_attr("identity", full_identity)
    return Search(study, space, None if storage else lock)


def _created(create: Callable[[], optuna.Study], storage: str) -> optuna.Study:
    """A study in a database, whose tables another process may be making at the same time.

    Raises:
        SettingError: it cannot be made there.
    """
    for last in (False, True):
        try:
            return create()
        except Exception as error:  # error types depend on the database's driver
            if last or "already exists" not in str(error):
                raise SettingError(f"storage {storage}: {str(error).splitlines()[0]}") from None
            time.sleep(_POLL)
    raise AssertionError


def _key(combination: dict[str, Any]) -> str:
    return json.dumps(combination, sort_keys=True)


def _is_begun(study: optuna.Study, identity: dict[str, Any], location: str, option: str) -> bool:
    """Whether a study has its identity, and so its grid.

    Raises:
        SettingError: it was created with another identity.
    """
    saved = study.user_attrs.get("identity")
    if saved is None:
        return False
    if saved != identity:
        differing = sorted(key for key in identity if saved.get(key) != identity[key])
        if "settings" in differing and isinstance(saved.get("settings"), dict):
            before, now = saved["settings"], identity["settings"]
            differing = [key for key in differing if key != "settings"]
            differing += sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
        raise SettingError(
            f"the study in {location} was begun with another {', '.join(differing)}; give another {option}, or remove"
            " it"
        )
    return True


def _damaged(path: Path) -> int:
    """Number of the first line that is not JSON, counted from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                json.loads(line)
            except ValueError:
                return number
    return number
