"""One run of stage 2: its models together, their predictions and metrics."""

import contextlib
import dataclasses
import io
import time

import numpy as np
import torch

from kflm2.config.train import TrainConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.data.structures import structure_digests
from kflm2.device import choose_device
from kflm2.errors import MoleculeError
from kflm2.featurize.features import Features
from kflm2.metrics.conformal import CONFIDENCE, Calibration
from kflm2.metrics.scores import choose_thresholds, score
from kflm2.metrics.stacking import stacking_weights
from kflm2.results.runs import Run
from kflm2.stages.train.members import (
    Member,
    fit_members,
    fit_ridge,
    limited_threads,
    scaled_features,
    training_weights,
)
from kflm2.stages.train.prepared import Prepared, prepare
from kflm2.trainers.forest import fit_forest
from kflm2.trainers.jobs import default_jobs
from kflm2.trainers.supervised import Ensemble, FittedModel
from kflm2.trainers.voters import fit_voter


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
    learnt = molecules.y_learnt
    thresholds = np.full(y_true.shape[1], np.nan)
    if task == "classification":
        thresholds = choose_thresholds(learnt[held_out], y_pred[held_out])
    scores = {
        part: score(y_true[rows], y_pred[rows], task, thresholds, learnt[split.not_tested])
        for part, rows in split.measured.items()
    }
    calibration = Calibration.fit(task, learnt[held_out], y_pred[held_out], std[held_out])
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
    with limited_threads(config.threads):
        if not split.folds:
            return Trained(ensemble, features, *ensemble.predict(features))
        return _assemble_folds(config, prepared, split, ensemble, features, seed)


def _assemble_folds(
    config: TrainConfig, prepared: Prepared, split: Split, ensemble: Ensemble, features: Features, seed: int
) -> Trained:
    """The voters beside the networks of inner folds, the weights of all, and their predictions.

    Predictions of the learned molecules are out-of-fold; the others are of the voters that have learnt from all folds.
    """
    y_true, task = prepared.molecules.y_learnt, prepared.molecules.dataset.task
    importance = training_weights(prepared.molecules, split)
    # as many as the networks may take: on a GPU, where these are quick, the voters would last much longer than they
    threads = config.threads * (config.jobs or default_jobs(config.threads))
    start = time.perf_counter()

    def with_voters(networks: Ensemble) -> tuple[Ensemble, Ensemble]:
        base = None
        if networks.baseline is not None and features.unscaled is not None:
            base = networks.baseline.predict(features.unscaled)
        pairs = [
            fit_forest(features, y_true, split, seed, importance, threads)
            if name == "forest"
            else fit_voter(
                name, features, y_true, split, task, seed, base, importance, prepared.molecules.bounds, threads
            )
            for name in config.read_voters
        ]
        deltas = (None, None) if networks.delta is None else with_voters(networks.delta)
        of_folds = dataclasses.replace(networks, folds=True, voters=tuple(pair[0] for pair in pairs), delta=deltas[0])
        return of_folds, dataclasses.replace(of_folds, voters=tuple(pair[1] for pair in pairs), delta=deltas[1])

    of_folds, ensemble = with_voters(ensemble)
    seconds = time.perf_counter() - start
    outputs = of_folds.fold_outputs(features)
    rows, fold = split.learned, split.fold_of
    out_of_fold = outputs.of_rows(rows, fold)
    models = out_of_fold.models()
    weights = np.full((len(models), y_true.shape[1]), 1 / len(models))
    if config.weights == "learned":
        for k in range(y_true.shape[1]):
            weights[:, k] = stacking_weights(y_true[rows, k], models[:, :, k], fold, task)
    ensemble = dataclasses.replace(ensemble, weights=weights)
    y_pred, std = (np.full(y_true.shape, np.nan) for _ in range(2))
    y_pred[rows], std[rows] = ensemble.combined(out_of_fold)
    if len(others := np.setdiff1d(np.arange(len(y_true)), rows)):
        y_pred[others], std[others] = ensemble.combined(ensemble.fold_outputs(features.subset(others)))
    return Trained(ensemble, features, y_pred, std, outputs.fused, round(seconds, 3))
