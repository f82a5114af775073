"""A table's molecules and their views, before any split."""

import dataclasses
import time
from collections import Counter

import numpy as np
import torch

from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import TrainConfig
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.device import choose_precision
from kflm2.featurize import minimol, xtb
from kflm2.featurize.cache import StoredRows
from kflm2.featurize.descriptors import compute_descriptors, without
from kflm2.featurize.embeddings import Embedder
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import build_graphs
from kflm2.featurize.ragged import Ragged
from kflm2.featurize.taught import find_head, names_of
from kflm2.llm.resolve import LLMSource, resolve
from kflm2.stages.train import report
from kflm2.stages.train.origin import Origin, find_origin
from kflm2.trainers.baseline import baseline_columns

LEARNT_BY_MINIMOL = ("Tox21", "HIV")
"""Datasets whose assays are among those from which MiniMol learnt."""
_READ_ROWS = 1024
"""Molecules whose token states are in memory at once, for what the LLM was taught."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A table's molecules and their views, before any split."""

    molecules: Molecules
    features: Features
    """Descriptors as computed, and covariates as read; each run scales them on its own training rows."""
    source: LLMSource | None
    """The LLM, where the model reads one."""
    seconds: dict[str, float]
    without_xtb: dict[str, int] = dataclasses.field(default_factory=dict)
    """Reason -> molecules that have no xTB values for it; empty where all have, or none are read."""
    origin: Origin | None = None
    """The saved model to go on from."""


def prepare(config: TrainConfig, device: torch.device, molecules: Molecules | None = None) -> Prepared:
    """Compute the views the model takes; what the cache holds is not computed again.

    Args:
        config: see TrainConfig.
        device: to run the LLM on.
        molecules: default those of the table.
    """
    molecules = molecules or _load(config)
    seconds: dict[str, float] = {}
    origin = find_origin(config, device)
    source = None
    if "states" in config.read_views:
        source = find_source(config, device) if origin is None else origin.source
    # what cannot work should show now, not after minutes of computing
    if "xtb" in config.read_descriptors:
        xtb.require()
    if "minimol" in config.read_voters:
        minimol.package_version()
    baseline_columns(config, names_of(config.read_descriptors, source))
    states = None
    if source is not None:
        with _timed("embeddings", seconds):
            molecules, states = _read_states(config, source, device, molecules)
    graphs, descriptors = None, None
    failures: list[str] = []
    if "graph" in config.read_views:
        with _timed("graphs", seconds):
            graphs = build_graphs(molecules.smiles)
    if config.read_descriptors != "none":
        with _timed("descriptors", seconds):
            descriptors, failures = _read_descriptors(config, source, states, molecules.smiles)
    if note := xtb.count_failures(failures):
        print(note, flush=True)
    counts = None
    if config.reads_counts:
        with _timed("Morgan counts", seconds):
            counts = compute_descriptors("morgan", molecules.smiles)
    prints = None
    if "minimol" in config.read_voters:
        with _timed("MiniMol", seconds):
            prints = minimol.compute_minimol(molecules.smiles)
        if config.dataset in LEARNT_BY_MINIMOL:
            print(f"MiniMol learnt the labels of {config.dataset}: all metrics are too good", flush=True)
    without_xtb = dict(Counter(filter(None, failures)).most_common())
    covariates = molecules.covariates if "covariates" in config.read_views else None
    features = Features(states, graphs, descriptors, counts, covariates=covariates, minimol=prints)
    return Prepared(molecules, features, source, seconds, without_xtb, origin)


def _read_descriptors(
    config: TrainConfig, source: LLMSource | None, states: Ragged | StoredRows | None, smiles: list[str]
) -> tuple[np.ndarray, list[str]]:
    """(n, P) descriptors, those that the LLM was taught last; and why a molecule has no xTB values, [] without xTB."""
    columns, failures = [], list[str]()
    if (plain := without(config.descriptors, "taught", "xtb")) != "none":
        columns.append(compute_descriptors(plain, smiles))
    if "xtb" in config.descriptors:
        values, failures = xtb.compute_xtb(smiles)
        columns.append(values)
    if "taught" in config.descriptors:
        head = find_head(source)
        assert states is not None
        blocks = np.array_split(np.arange(len(smiles)), -(-len(smiles) // _READ_ROWS))
        columns.append(np.concatenate([head(states.take(rows)) for rows in blocks]))
    return np.concatenate(columns, axis=1), failures


def load_readable(config: TrainConfig, device: torch.device) -> Molecules:
    """The molecules of the table that the pipeline can read, so that `prepare` rejects none of them later."""
    molecules = _load(config)
    if "states" in config.read_views:
        molecules, _ = _read_states(config, find_source(config, device), device, molecules)
    return molecules


def _load(config: TrainConfig) -> Molecules:
    molecules = load(config)
    for line in report.notes(molecules, "covariates" in config.read_views):
        print(line, flush=True)
    if molecules.rejected:
        print(report.rejections(molecules), flush=True)
    return molecules


def _read_states(
    config: TrainConfig, source: LLMSource, device: torch.device, molecules: Molecules
) -> tuple[Molecules, Ragged | StoredRows]:
    """States of the molecules, without those that are longer than the LLM's context."""
    states = Embedder(source, device).embed(molecules.smiles, "tokens" if config.wants_tokens else "mean")
    too_long = {int(i): "longer than the LLM's context" for i in np.flatnonzero(states.lengths == 0)}
    if too_long:
        molecules = molecules.reject(too_long)
        states = states.subset(np.array([i for i in range(len(states)) if i not in too_long]))
        print(report.rejections(molecules), flush=True)
    return molecules, states


def find_source(config: TrainConfig, device: torch.device) -> LLMSource:
    """The LLM, its adapter and its layers that the settings name; what `auto` takes is printed."""
    if config.from_ is not None:
        origin = find_origin(config, device)
        assert origin is not None and origin.source is not None  # its views are those of the settings
        return origin.source
    base_only = "" if PIPELINES[config.model].adapter else config.model
    precision = choose_precision(config.precision, device)
    return resolve(config.llm, config.adapter, config.layers, base_only, precision)


class _timed:
    """Seconds spent in a block, under a name."""

    def __init__(self, name: str, seconds: dict[str, float]) -> None:
        self.name, self.seconds = name, seconds

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = round(time.perf_counter() - self.start, 3)
