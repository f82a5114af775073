"""One run of stage 2: features, trained models, predictions and their metrics."""

import contextlib
import dataclasses
import functools
import io
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import TrainConfig
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.data.structures import structure_digests
from kflm2.device import choose_device, choose_precision
from kflm2.errors import DataError, KFLM2Error, MoleculeError
from kflm2.featurize import xtb
from kflm2.featurize.cache import StoredRows
from kflm2.featurize.covariate_scaler import CovariateScaler
from kflm2.featurize.descriptors import DescriptorScaler, compute_descriptors, without
from kflm2.featurize.embeddings import Embedder
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import build_graphs
from kflm2.featurize.ragged import Ragged
from kflm2.featurize.taught import find_head, names_of
from kflm2.llm.resolve import LLMSource, resolve
from kflm2.metrics.conformal import CONFIDENCE, Calibration
from kflm2.metrics.scores import choose_thresholds, score
from kflm2.metrics.stacking import stacking_weights
from kflm2.model import build
from kflm2.results.runs import Run
from kflm2.stages.train import report
from kflm2.stages.train.origin import Origin, find_origin
from kflm2.trainers.baseline import RidgeBaseline, baseline_columns, fit_baseline
from kflm2.trainers.jobs import default_jobs, run_jobs
from kflm2.trainers.supervised import Ensemble, FittedModel, fit, scale_features, steps_of
from kflm2.trainers.together import MemberData, can_train_together, fit_together
from kflm2.trainers.voters import fit_voter

AT_ONCE = 32
"""Networks that a GPU trains at once, in whole runs: more save little time, and a run waits for all of them."""
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


def fit_once(config: TrainConfig, molecules: Molecules, split: Split) -> Run:
    """One run on molecules and a split that are given; nothing is printed or written.

    Raises:
        KFLM2Error: the settings cannot be used, or the LLM cannot read a molecule.
    """
    device = choose_device(config.device)
    with contextlib.redirect_stdout(io.StringIO()):  # which LLM was taken interests only those who run a stage
        prepared = prepare(config, device, molecules)
    if len(prepared.molecules.smiles) < len(molecules.smiles):
        rejection = next(entry for entry in prepared.molecules.rejected if entry not in molecules.rejected)
        raise MoleculeError(f"{rejection.smiles}: {rejection.reason}")
    trained = train(config, prepared, split, config.seed, device)
    return evaluate(config, prepared, split, config.seed, trained, prepared.seconds)


def evaluate(
    config: TrainConfig,
    prepared: Prepared,
    split: Split,
    seed: int,
    trained: "Trained",
    seconds: dict[str, float],
) -> Run:
    """Measure trained models on all parts; thresholds and calibration are learnt on validation.

    With inner folds, validation is of the out-of-fold predictions of train and valid together, and there are no metrics
    of a training part.
    """
    molecules, held_out, origin = prepared.molecules, split.held_out, prepared.origin
    y_true, task, y_pred, std = molecules.y_true, molecules.dataset.task, trained.y_pred, trained.std
    thresholds = np.full(y_true.shape[1], np.nan)
    if task == "classification":
        thresholds = choose_thresholds(y_true[held_out], y_pred[held_out])
    scores = {
        part: score(y_true[rows], y_pred[rows], task, thresholds, y_true[split.not_tested])
        for part, rows in split.measured.items()
    }
    calibration = Calibration.fit(task, y_true[held_out], y_pred[held_out], std[held_out])
    coverage = {
        part: calibration.coverage(y_true[rows], y_pred[rows], std[rows], CONFIDENCE)
        for part, rows in split.parts.items()
        if part.startswith("test")
    }
    return Run(
        config=config,
        molecules=molecules,
        source=prepared.source,
        split=split,
        seed=seed,
        scores=scores,
        thresholds=thresholds,
        y_pred=y_pred,
        std=std,
        calibration=calibration,
        coverage=coverage,
        bounds={}
        if molecules.bounds is None
        else {part: _kept_bounds(molecules.bounds[:, rows], y_pred[rows]) for part, rows in split.measured.items()},
        ensemble=trained.ensemble,
        # the states of one run are enough for a map of them
        hidden=trained.ensemble.members[0].hidden(trained.scaled) if seed == config.seed else None,
        fused=trained.fused if seed == config.seed else None,
        seconds=seconds,
        origin=None if origin is None else origin.known(structure_digests(molecules.smiles), split),
        learnt_before=frozenset() if origin is None else origin.learnt,
        without_xtb=prepared.without_xtb,
    )


def _kept_bounds(bounds: np.ndarray, y_pred: np.ndarray) -> dict[str, int]:
    """Labels of which only a bound is known, and how many of (m, K) predictions keep the (2, m, K) bounds."""
    bounded = ~np.isnan(bounds).all(axis=0)
    broken = (y_pred < bounds[0]) | (y_pred > bounds[1])  # of NaN neither is true
    return {"labels": int(bounded.sum()), "kept": int((bounded & ~broken).sum())}


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
    if "svm" in config.read_voters:
        with _timed("Morgan counts", seconds):
            counts = compute_descriptors("morgan", molecules.smiles)
    without_xtb = dict(Counter(filter(None, failures)).most_common())
    covariates = molecules.covariates if "covariates" in config.read_views else None
    features = Features(states, graphs, descriptors, counts, covariates=covariates)
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


@dataclasses.dataclass(frozen=True)
class Trained:
    """The models of one run, and their predictions of all n molecules."""

    ensemble: Ensemble
    scaled: Features
    """As the models read them."""
    y_pred: np.ndarray
    """(n, K) mean of the members; with inner folds, of train and valid the out-of-fold predictions."""
    std: np.ndarray
    """(n, K) standard deviation; see Ensemble.predict_with_fused."""
    fused: np.ndarray | None = None
    """(F, n, H) outputs of the fusion of each inner fold's network; None without inner folds."""
    seconds: float = 0.0
    """That the voters took."""


def train(config: TrainConfig, prepared: Prepared, split: Split, seed: int, device: torch.device) -> Trained:
    """Train the models of one run, on a GPU at once and else one after another."""
    splits = {seed: split}
    members = [Member(seed, number) for number in range(config.networks)]
    return assemble(config, prepared, split, list(fit_members(config, prepared, splits, device, members)), seed)


class Member(NamedTuple):
    """One model of one run."""

    seed: int
    """Of the run."""
    number: int
    """From the number of folds on they learn what the baseline leaves, once more of the same folds."""

    def __str__(self) -> str:
        return f"seed {self.seed}" + (f", model {self.number + 1}" if self.number else "")


def fit_all(
    config: TrainConfig,
    prepared: Prepared,
    splits: Mapping[int, Split],
    device: torch.device,
    members: Sequence[Member],
    after_epoch: Callable[[int], object],
) -> Generator[FittedModel, None, None]:
    """Train models: on a CPU, or where `jobs` is set, in processes, else by fit_members. Close it; see run_jobs.

    Args:
        config: see TrainConfig.
        prepared: the molecules and their views.
        splits: seed -> split.
        device: to train on.
        members: which models.
        after_epoch: called with the number of epochs that were trained since the last call.
    """
    if device.type != "cpu" and config.jobs is None:
        yield from fit_members(config, prepared, splits, device, members, lambda: after_epoch(1))
        return
    work = functools.partial(fit_member, config, prepared, splits, device)
    jobs = config.jobs or default_jobs(config.threads)
    forked = device.type == "cpu" and config.threads == 1
    with contextlib.closing(run_jobs(work, members, jobs, forked, after_epoch)) as models:
        yield from models


def fit_members(
    config: TrainConfig,
    prepared: Prepared,
    splits: Mapping[int, Split],
    device: torch.device,
    members: Sequence[Member],
    after_epoch: Callable[[], object] = lambda: None,
) -> Iterator[FittedModel]:
    """Train models in one process; on a GPU many at once.

    There the random numbers of dropout depend on which are trained at once; so do the models.

    Args:
        config: see TrainConfig.
        prepared: the molecules and their views.
        splits: seed -> split.
        device: to train on.
        members: which models.
        after_epoch: called after each epoch of each model.
    """
    if device.type != "cuda" or prepared.origin is not None or not can_train_together(config):
        yield from (fit_member(config, prepared, splits, device, member, after_epoch) for member in members)
        return
    count = max(AT_ONCE // config.networks, 1) * config.networks
    for start in range(0, len(members), count):
        for model in _fit_at_once(config, prepared, splits, device, members[start : start + count], after_epoch):
            if isinstance(model, KFLM2Error):
                raise model
            yield model


def _fit_at_once(
    config: TrainConfig,
    prepared: Prepared,
    splits: Mapping[int, Split],
    device: torch.device,
    members: Sequence[Member],
    after_epoch: Callable[[], object],
) -> list[FittedModel | KFLM2Error]:
    """Train those with equally many batches at once, and fewer where the GPU has no room; see fit_members."""
    scaled = {seed: scaled_features(config, prepared, splits[seed])[0] for seed in {member.seed for member in members}}
    data = [member_data(config, prepared, splits, member, scaled[member.seed]) for member in members]
    by_steps: dict[int, list[int]] = {}
    for i, member in enumerate(data):
        by_steps.setdefault(steps_of(member.split, config), []).append(i)
    waiting, models = list(by_steps.values()), dict[int, FittedModel | KFLM2Error]()
    made = counted = 0  # epochs of an attempt, and those that were counted in an attempt that had no room

    def count() -> None:
        nonlocal made, counted
        made += 1
        if counted:
            counted -= 1
        else:
            after_epoch()

    while waiting:
        rows, made, trained = waiting.pop(), 0, None
        if len(rows) == 1:  # by itself it needs no padding
            models[rows[0]] = fit_member(config, prepared, splits, device, members[rows[0]], count)
            continue
        task, components = prepared.molecules.dataset.task, config.states_components
        with contextlib.suppress(torch.OutOfMemoryError):
            trained = fit_together([data[i] for i in rows], task, config, device, count, components)
        if trained is None:
            torch.cuda.empty_cache()
            counted += made
            half = -(-len(rows) // 2)
            waiting += [rows[half:], rows[:half]]
        else:
            models.update(zip(rows, trained, strict=True))
    return [models[i] for i in range(len(members))]


def fit_member(
    config: TrainConfig,
    prepared: Prepared,
    splits: Mapping[int, Split],
    device: torch.device,
    member: Member,
    after_epoch: Callable[[], object] = lambda: None,
) -> FittedModel:
    """Train one model; the same bits in any process.

    Args:
        config: see TrainConfig.
        prepared: the molecules and their views.
        splits: seed -> split.
        device: to train on.
        member: which model.
        after_epoch: called after each epoch.
    """
    features, _ = scaled_features(config, prepared, splits[member.seed])
    data = member_data(config, prepared, splits, member, features)
    with _threads(config.threads):
        return fit(
            data.build,
            data.features,
            data.y_true,
            data.split,
            prepared.molecules.dataset.task,
            config,
            seed=data.seed,
            device=device,
            after_epoch=after_epoch,
            components=config.states_components,
            bounds=data.bounds,
            weights=data.weights,
            origin=None if prepared.origin is None else prepared.origin.model(member.number % config.members),
        )


def member_data(
    config: TrainConfig, prepared: Prepared, splits: Mapping[int, Split], member: Member, features: Features
) -> MemberData:
    """What a model learns from; features: those of scaled_features. See fit_member."""
    whole, (delta, number) = splits[member.seed], divmod(member.number, config.members)
    split, sizes, molecules = whole.of_member(number), features.sizes(), prepared.molecules
    y_true, bounds, weights = molecules.y_true, molecules.bounds, training_weights(molecules, whole)
    if delta or config.baseline_model == "ridge":
        baseline = fit_ridge(config, features, molecules, whole)
        assert features.unscaled is not None
        base = baseline.predict(features.unscaled)[number]
        y_true, bounds = y_true - base, None if bounds is None else bounds - base
    return MemberData(
        lambda: build(config.model, sizes, y_true.shape[1], config),
        features,
        y_true,
        split,
        # members of one run differ from each other and from all other runs' members
        seed=member.seed * 1000 + number,
        bounds=bounds,
        weights=weights,
    )


def assemble(config: TrainConfig, prepared: Prepared, split: Split, members: list[FittedModel], seed: int) -> Trained:
    """The trained models of one run, in their order, with their predictions.

    Args:
        config: see TrainConfig.
        prepared: the molecules and their views.
        split: of the run.
        members: of fit_member.
        seed: of the run.
    """
    features, (descriptor_scaler, covariate_scaler) = scaled_features(config, prepared, split)
    first, second = members[: config.members], members[config.members :]
    ensemble = Ensemble(first, descriptor_scaler, features.sizes(), covariate_scaler=covariate_scaler)
    if config.baseline_model != "none":
        baseline = fit_ridge(config, features, prepared.molecules, split)
        if config.baseline_model == "ridge":
            ensemble = dataclasses.replace(ensemble, baseline=baseline)
        else:
            delta = dataclasses.replace(ensemble, members=second, baseline=baseline)
            ensemble = dataclasses.replace(ensemble, delta=delta)
    with _threads(config.threads):
        if not split.folds:
            return Trained(ensemble, features, *ensemble.predict(features))
        return _assemble_folds(config, prepared, split, ensemble, features, seed)


def _assemble_folds(
    config: TrainConfig, prepared: Prepared, split: Split, ensemble: Ensemble, features: Features, seed: int
) -> Trained:
    """The voters beside the networks of inner folds, the weights of all, and their predictions."""
    y_true, task = prepared.molecules.y_true, prepared.molecules.dataset.task
    importance = training_weights(prepared.molecules, split)
    start = time.perf_counter()

    def with_voters(networks: Ensemble) -> Ensemble:
        base = None
        if networks.baseline is not None and features.unscaled is not None:
            base = networks.baseline.predict(features.unscaled)
        voters = tuple(
            fit_voter(name, features, y_true, split, task, seed, base, importance, prepared.molecules.bounds)
            for name in config.read_voters
        )
        delta = None if networks.delta is None else with_voters(networks.delta)
        return dataclasses.replace(networks, folds=True, voters=voters, delta=delta)

    ensemble = with_voters(ensemble)
    seconds = time.perf_counter() - start
    outputs = ensemble.fold_outputs(features)
    rows, fold = split.learned, split.fold_of
    out_of_fold = outputs.of_rows(rows, fold)
    models = out_of_fold.models()
    weights = np.full((len(models), y_true.shape[1]), 1 / len(models))
    if config.weights == "learned":
        for k in range(y_true.shape[1]):
            weights[:, k] = stacking_weights(y_true[rows, k], models[:, :, k], fold, task)
    ensemble = dataclasses.replace(ensemble, weights=weights)
    y_pred, std = ensemble.combined(outputs)
    y_pred[rows], std[rows] = ensemble.combined(out_of_fold)
    return Trained(ensemble, features, y_pred, std, outputs.fused, round(seconds, 3))


def fit_ridge(config: TrainConfig, features: Features, molecules: Molecules, split: Split) -> RidgeBaseline:
    """The ridge of each fold, of the molecules that its network learns from."""
    assert features.unscaled is not None
    rows = [split.of_member(number).train for number in range(config.members)]
    return fit_baseline(features.unscaled, molecules.y_true, rows, training_weights(molecules, split))


def training_weights(molecules: Molecules, split: Split) -> np.ndarray | None:
    """(n,) weights of the molecules, with mean 1 over those that are learnt from; None for 1."""
    if molecules.weights is None:
        return None
    weights = molecules.weights
    for part in (split.train, split.valid, *split.folds):
        if len(part) and not weights[part].any():
            raise DataError(
                "a part that is learnt from, or by which the epoch is chosen, has molecules of weight 0 only"
            )
    return weights / weights[split.learned].mean()


def scaled_features(
    config: TrainConfig, prepared: Prepared, split: Split
) -> tuple[Features, tuple[DescriptorScaler | None, CovariateScaler | None]]:
    """Features as the models of a split read them, and what scaled descriptors and covariates."""
    features, unscaled = prepared.features, list[int]()
    # of inner folds all share one scaler, which sees no label
    descriptor_scaler, covariate_scaler = None, None
    if features.covariates is not None:
        columns = prepared.molecules.covariate_columns
        covariate_scaler = CovariateScaler.fit(columns, features.covariates[split.learned])
        features = dataclasses.replace(features, covariates=covariate_scaler.of_table(columns, features.covariates))
    if features.descriptors is not None:
        descriptor_scaler = None if prepared.origin is None else prepared.origin.scaler
        descriptor_scaler = descriptor_scaler or DescriptorScaler(features.descriptors[split.learned])
        unscaled = baseline_columns(config, names_of(config.read_descriptors, prepared.source))
    scaled = scale_features(features, descriptor_scaler, covariate_scaler, unscaled)
    return scaled, (descriptor_scaler, covariate_scaler)


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """CPU threads of torch inside a block; the LLM before it uses all there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _timed:
    """Seconds spent in a block, under a name."""

    def __init__(self, name: str, seconds: dict[str, float]) -> None:
        self.name, self.seconds = name, seconds

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = round(time.perf_counter() - self.start, 3)
