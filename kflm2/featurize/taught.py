"""What an LLM learnt of a table of knowledge in stage 1, read off its hidden states, in the units of the table."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.stats import norm

from kflm2.errors import LLMError, SettingError
from kflm2.featurize.descriptors import descriptor_names
from kflm2.featurize.features import Features
from kflm2.featurize.ragged import Ragged
from kflm2.llm import adapters
from kflm2.llm.resolve import LLMSource

_SIGMAS = 5.0
"""Standard deviations at which hidden states are clipped, as when the head was trained."""


class KnowledgeHead:
    """The linear head beside an adapter, as far as it predicts the columns of tables.

    Its outputs are ranks (quantiles of a normal distribution); the table's own quantiles turn them into units. So a
    value is within the range of the table.
    """

    def __init__(self, path: Path) -> None:
        """Read knowledge_head.safetensors.

        Raises:
            LLMError: the file is damaged, or the head learnt from no table.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                names = json.loads((file.metadata() or {}).get("tables", "[]"))
                arrays = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}
        except (OSError, SafetensorError, ValueError) as error:
            raise LLMError(f"{path} cannot be read: {error}") from None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise LLMError(f"{path} is damaged: its names are none")
        if not names:
            raise LLMError(f"{path}: the LLM learnt from no table; fine-tune it with --knowledge xtb and --layers")
        self.names = tuple(f"taught_{name}" for name in names)
        try:
            outputs, width = arrays["1.weight"].shape
            columns, (count, _) = arrays["table.columns"], arrays["table.quantiles"].shape
            table = (len(names),)
            shapes = {
                "0.mean": (width,),
                "0.std": (width,),
                "1.bias": (outputs,),
                "table.columns": table,
                "table.mean": table,
                "table.std": table,
                "table.quantiles": (count, len(names)),
            }
            sound = all(arrays[name].shape == shape for name, shape in shapes.items())
            finite = all(np.isfinite(array).all() for array in arrays.values())
            inside = bool(((columns >= 0) & (columns < outputs)).all())
            if not (sound and finite and inside and (arrays["0.std"] > 0).all()):
                raise ValueError("its arrays do not go together, or hold a number that is not finite")
        except (KeyError, ValueError) as error:
            raise LLMError(f"{path} is damaged: {error}") from None
        self._mean, self._std = arrays["0.mean"], arrays["0.std"]
        rows = columns.astype(int)
        self._weight, self._bias = arrays["1.weight"][rows], arrays["1.bias"][rows]
        self._quantiles, self.width = arrays["table.quantiles"], width
        self._rank_mean, self._rank_std = arrays["table.mean"], arrays["table.std"]

    def __call__(self, states: Ragged) -> np.ndarray:
        """(n, P) float32 values from the hidden states of n SMILES: of their tokens, or the mean of these."""
        means = np.add.reduceat(states.values.astype(np.float64), states.ptr[:-1]) / states.lengths[:, None]
        scaled = ((means - self._mean) / self._std).clip(-_SIGMAS, _SIGMAS)
        ranks = (scaled @ self._weight.T + self._bias) * self._rank_std + self._rank_mean
        shares, known = norm.cdf(ranks), np.linspace(0, 1, len(self._quantiles))
        columns = [np.interp(share, known, self._quantiles[:, k]) for k, share in enumerate(shares.T)]
        return np.stack(columns, axis=1).astype(np.float32)


def with_taught(features: Features, head: KnowledgeHead | None) -> Features:
    """Features with what the head reads off the hidden states as further descriptors; None leaves them as they are."""
    if head is None:
        return features
    assert isinstance(features.states, Ragged)
    taught = head(features.states)
    own = features.descriptors
    return replace(features, descriptors=taught if own is None else np.concatenate([own, taught], axis=1))


def names_of(kind: str, source: LLMSource | None) -> tuple[str, ...]:
    """Names of the columns of a descriptor set, in their order, where an LLM is read; see find_head."""
    return descriptor_names(kind, find_head(source).names if "taught" in kind else ())


def find_head(source: LLMSource | None) -> KnowledgeHead:
    """The head of an LLM's adapter.

    Raises:
        SettingError: there is none, or other layers are read than the head learnt from.
        LLMError: it is damaged, or learnt from no table.
    """
    if source is None or source.adapter is None or not (source.adapter / adapters.HEAD).is_file():
        raise SettingError(
            "descriptors taught: they are read by the head of an adapter that was fine-tuned with --knowledge xtb, and"
            f" {'no LLM is read' if source is None else f'{source.name} has no such adapter'}"
        )
    depth = adapters.layers_of(source.adapter)
    if depth is None:
        raise SettingError(
            f"descriptors taught: the adapter {source.adapter} has all layers, and the head reads what comes before the"
            " last norm; fine-tune with --layers, fewer than the LLM has"
        )
    if source.layers != (depth,):
        raise SettingError(f"descriptors taught: the head reads layer {depth}, the adapter's last; leave --layers out")
    return KnowledgeHead(source.adapter / adapters.HEAD)
