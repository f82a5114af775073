"""A search over settings that several processes may share, and that loses nothing when one of them is killed."""

import contextlib
import itertools
import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.storages.journal._file import BaseJournalFileLock  # it is exported nowhere else
from optuna.trial import FrozenTrial, Trial, TrialState

from kflm2.errors import DataError, SettingError
from kflm2.files import read_toml, sha256_texts

_POLL = 0.5
"""Seconds between looks at what other processes do."""


@dataclass(frozen=True)
class Space:
    """What a search chooses from: setting -> choices or range."""

    parameters: dict[str, BaseDistribution]

    @property
    def sha256(self) -> str:
        """Digest of names, choices and ranges."""
        return sha256_texts(f"{name} {own!r}" for name, own in sorted(self.parameters.items()))

    def grid(self) -> list[dict[str, Any]]:
        """Every combination.

        Raises:
            SettingError: a range has no steps.
        """
        values = {name: _values(name, own) for name, own in self.parameters.items()}
        return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def _values(name: str, own: BaseDistribution) -> list[Any]:
    if isinstance(own, CategoricalDistribution):
        return list(own.choices)
    assert isinstance(own, IntDistribution | FloatDistribution)
    if own.step is None or own.log:
        raise SettingError(f"space: {name} has no steps, so that no grid can be laid; give choices or a step")
    number = int((own.high - own.low) / own.step + 1e-9) + 1
    return [type(own.low)(round(own.low + place * own.step, 12)) for place in range(number)]


def read_space(path: Path, allowed: tuple[str, ...]) -> Space:
    """A space from TOML: a table a setting, with choices, or from and to, and step or scale = "log".

    Raises:
        SettingError: it cannot be used; the message says what is wrong.
    """
    table = read_toml(path, "space", SettingError)
    if not table:
        raise SettingError(f"space {path}: nothing to choose from")
    parameters = {}
    for name, own in table.items():
        if name not in allowed:
            raise SettingError(f"space {path}: {name!r} is no setting to choose; there are: {', '.join(allowed)}")
        try:
            parameters[name] = _distribution(own)
        except (ValueError, TypeError, KeyError) as error:
            raise SettingError(f"space {path}: {name}: {error}") from None
    return Space(parameters)


def _distribution(own: Any) -> BaseDistribution:
    if not isinstance(own, dict) or not (set(own) == {"choices"} or {"from", "to"} <= set(own)):
        raise ValueError("give choices, or from and to")
    if "choices" in own:
        return CategoricalDistribution(own["choices"])
    if unknown := sorted(set(own) - {"from", "to", "step", "scale"}):
        raise ValueError(f"unknown key {unknown[0]!r}; there are choices, from, to, step, scale")
    low, high, log = own["from"], own["to"], own.get("scale", "linear") == "log"
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=own.get("step", 1))
    return FloatDistribution(float(low), float(high), log=log, step=own.get("step"))


class _Lock(BaseJournalFileLock):
    """A lock that the system lets go when its process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


@dataclass(frozen=True)
class Search:
    """A study on disk or in a database, with what it may choose."""

    study: optuna.Study
    space: Space
    lock: FileLock | None
    """Held while a trial is taken; None where a database keeps order."""

    def run(self, trials: int, objective: Callable[[Trial, dict[str, Any]], float]) -> Iterator[FrozenTrial]:
        """Work at the study until it has so many finished trials, whoever finishes them.

        Args:
            trials: completed, pruned or failed.
            objective: of a trial and what it chose; NaN counts as a failed trial.

        Yields:
            Each trial after this process finished it.
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
            except SettingError as error:
                trial.set_user_attr("failed", str(error))
                yield self.study.tell(trial, state=TrialState.FAIL)
            except BaseException:
                # stopped, not failed: what it chose is tried again by who goes on
                self._give_back(trial.number, trial.params)
                raise
            else:
                if math.isfinite(value):
                    yield self.study.tell(trial, value)
                else:
                    trial.set_user_attr("failed", "its predictions are no numbers")
                    yield self.study.tell(trial, state=TrialState.FAIL)

    def finished(self) -> list[FrozenTrial]:
        """Trials that count: completed, pruned, or failed by themselves."""
        return [own for own in self.study.get_trials(deepcopy=False) if _counts(own)]

    def _take(self, trials: int) -> "Trial | object | None":
        """The next trial; _BUSY where others are at the last ones; None when all are finished."""
        with self.lock or contextlib.nullcontext():
            running = []
            for own in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if _is_lost(own):
                    self._give_back(own.number, own.params)
                else:
                    running.append(own)
            left = trials - len(self.finished())
            if left <= 0:
                return None
            if len(running) >= left:
                return _BUSY
            trial = self.study.ask(self.space.parameters)
            here = psutil.Process()
            trial.set_user_attr("process", [socket.gethostname(), here.pid, here.create_time()])
            return trial

    def _give_back(self, number: int, chosen: dict[str, Any]) -> None:
        if chosen:
            self.study.enqueue_trial(chosen)
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


_BUSY = object()


def _counts(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return "failed" in trial.user_attrs
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _is_lost(trial: FrozenTrial) -> bool:
    """Whether the process at work on a trial is no more; of another machine's nothing is known."""
    process = trial.user_attrs.get("process")
    if process is None:  # killed between taking the trial and signing for it
        return trial.datetime_start is not None and time.time() - trial.datetime_start.timestamp() > 60
    host, number, begun = process
    if host != socket.gethostname():
        return False
    try:
        return abs(psutil.Process(number).create_time() - begun) > 1
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
    """The study of a folder or database, begun if it is not there.

    Args:
        folder: of the journal file and its locks.
        storage: URL of a database instead.
        name: of the study in it.
        space: to choose from.
        sampler: tpe, random or grid.
        identity: what else must be the same for trials to compare: dataset, split and fixed settings.
        minimize: smaller is better.
        prune: give hopeless trials up.
        seed: of the sampler.

    Raises:
        DataError: the journal is damaged.
        SettingError: the study there is another.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "study.lock")
    samplers = {
        # constant_liar: processes at work at the same time do not try the same
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=10),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "grid": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if prune else optuna.pruners.NopPruner()
    path = folder / "study.journal"
    with lock:
        own: Any = storage
        try:
            if storage is None:
                own = JournalStorage(JournalFileBackend(str(path), _Lock(folder / "study.journal.lock")))
            study = optuna.create_study(
                storage=own,
                study_name=name,
                sampler=samplers[sampler](),
                pruner=pruner,
                direction="minimize" if minimize else "maximize",
                load_if_exists=True,
            )
        except (json.JSONDecodeError, ValueError) as error:
            raise DataError(f"study {path}: line {_damaged(path)} is damaged ({error})") from None
        except Exception as error:  # the database's driver has errors of its own
            if storage is None:
                raise
            raise SettingError(f"storage {storage}: {str(error).splitlines()[0]}") from None
        known = {**identity, "space": space.sha256, "sampler": sampler}
        begun = _is_begun(study, known, storage or str(path))
        if not begun and sampler == "grid":
            for chosen in space.grid():
                study.enqueue_trial(chosen)
    if begun:
        # a seed alone would make every process draw the same
        study.sampler.reseed_rng()
    return Search(study, space, None if storage else lock)


def _is_begun(study: optuna.Study, known: dict[str, Any], where: str) -> bool:
    """Whether a study was begun before; a new one is told what it is of.

    Raises:
        SettingError: it was begun with something else.
    """
    before = study.user_attrs.get("identity")
    if before is None:
        study.set_user_attr("identity", known)
        return False
    if before != known:
        other = sorted(key for key in known if before.get(key) != known[key])
        raise SettingError(
            f"the study in {where} was begun with another {', '.join(other)}; give another --out, or remove it"
        )
    return True


def _damaged(path: Path) -> int:
    """Number of the first line that is no JSON, from 1."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                json.loads(line)
            except ValueError:
                return number
    return number
