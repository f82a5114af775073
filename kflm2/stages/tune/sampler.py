"""How a search chooses the settings of its next trial."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

_MAKERS: dict[str, Callable[[int], BaseSampler]] = {
    # constant_liar: concurrent processes do not try the same settings
    "tpe": lambda seed: TPESampler(seed=seed, constant_liar=True, n_startup_trials=10),
    "random": lambda seed: RandomSampler(seed=seed),
    # its combinations are enqueued
    "grid": lambda seed: RandomSampler(seed=seed),
}


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial has ended: completed, pruned, or failed because of its settings, not of an interruption."""
    if trial.state == TrialState.FAIL:
        return "failed" in trial.user_attrs
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


class Sampler(BaseSampler):
    """One of optuna's samplers, seeded anew for each trial by the number of trials before it.

    So a search that was interrupted goes on with the settings that it would have tried, and processes that share a
    study draw different ones.
    """

    def __init__(self, name: str, seed: int) -> None:
        """Name it.

        Args:
            name: tpe, random or grid.
            seed: of the whole search.
        """
        self._make, self._seed = _MAKERS[name], seed
        self._sampler = self._make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed the sampler for a trial; interrupted ones before it do not count, since they are tried again."""
        index = sum(
            other.number < trial.number and (counts(other) or not other.state.is_finished())
            for other in study.get_trials(deepcopy=False)
        )
        self._sampler = self._make(int(np.random.SeedSequence([self._seed, index]).generate_state(1)[0]))

    def infer_relative_search_space(self, *args: Any) -> Any:
        """As optuna's sampler."""
        return self._sampler.infer_relative_search_space(*args)

    def sample_relative(self, *args: Any) -> Any:
        """As optuna's sampler."""
        return self._sampler.sample_relative(*args)

    def sample_independent(self, *args: Any) -> Any:
        """As optuna's sampler."""
        return self._sampler.sample_independent(*args)

    def after_trial(self, *args: Any) -> None:
        """As optuna's sampler."""
        self._sampler.after_trial(*args)
