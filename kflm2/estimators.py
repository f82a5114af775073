"""KFLM2 as scikit-learn estimators, whose input X is SMILES.

from sklearn.model_selection import cross_val_score
from kflm2.estimators import KFLM2Regressor
print(cross_val_score(KFLM2Regressor(), smiles, y, cv=5))
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from kflm2.config.train import TrainConfig
from kflm2.data.covariates import also_needed
from kflm2.data.datasets import Dataset, Task
from kflm2.data.molecules import Molecules, parse_smiles
from kflm2.data.splits import Split, hold_out, structure_groups, with_folds
from kflm2.data.structures import standardize
from kflm2.errors import KFLM2Error, MoleculeError
from kflm2.files import sha256_texts
from kflm2.metrics.conformal import CONFIDENCE
from kflm2.predictor.bundle import SAVED_SETTINGS, Bundle
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.export import card, make_bundle
from kflm2.predictor.featurizer import OK
from kflm2.predictor.predictor import Predictions, Predictor
from kflm2.stages.train import experiment

_ESTIMATOR_ONLY = ("valid_fraction", "random_state")
"""Parameters that are not settings of stage 2."""


class _Estimator(BaseEstimator):
    """Common part of the regressor and the classifier."""

    _task: Task

    def __init__(
        self,
        model: str = "crossAtt",
        *,
        llm: str = "auto",
        adapter: str = "auto",
        layers: str = "middle",
        precision: str = "auto",
        descriptors: str | None = None,
        standardize: str = "canonical",
        hidden: int | None = None,
        dropout: float | None = None,
        graph_encoder: str | None = None,
        graph_width: int | None = None,
        graph_depth: int | None = None,
        states_width: int | None = None,
        states_components: int | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        schedule: str | None = None,
        batch_size: int | None = None,
        weight_decay: float | None = None,
        patience: int | None = None,
        ensemble: int | None = None,
        inner: str | None = None,
        voters: tuple[str, ...] | None = None,
        baseline_model: str | None = None,
        device: str = "auto",
        valid_fraction: float = 0.1,
        random_state: int = 0,
    ) -> None:
        """Set a pipeline and its settings; see `kflm2 train --help`.

        Args:
            model: pipeline.
            llm: LLM.
            adapter: of the LLM.
            layers: of the LLM.
            precision: of the LLM's arithmetic.
            descriptors: None takes the pipeline's default, here and below.
            standardize: of molecules.
            hidden: width of the fusion.
            dropout: rate.
            graph_encoder: gcn or gine.
            graph_width: of gine.
            graph_depth: of gine.
            states_width: inner width of the embedding DNN.
            states_components: principal components of the LLM's states that it learns from; 0 for all columns.
            epochs: passes over the training part.
            learning_rate: step size.
            schedule: of the learning rate.
            batch_size: molecules in a step.
            weight_decay: decoupled.
            patience: epochs; 0 never stops early.
            ensemble: number of models whose mean is the prediction; of crossAtt 5, of inner folds.
            inner: holdout or folds.
            voters: models of other kinds beside the network, with inner folds.
            baseline_model: none, ridge or auto: a ridge regression on xTB's numbers that predicts first.
            device: auto, cpu, cuda or cuda:N.
            valid_fraction: share of the molecules of `fit` for choosing the epoch and calibrating the intervals, where
                there are no inner folds.
            random_state: seed of that split, of weights and of the order of training.
        """
        self.model = model
        self.llm = llm
        self.adapter = adapter
        self.layers = layers
        self.precision = precision
        self.descriptors = descriptors
        self.standardize = standardize
        self.hidden = hidden
        self.dropout = dropout
        self.graph_encoder = graph_encoder
        self.graph_width = graph_width
        self.graph_depth = graph_depth
        self.states_width = states_width
        self.states_components = states_components
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.patience = patience
        self.ensemble = ensemble
        self.inner = inner
        self.voters = voters
        self.baseline_model = baseline_model
        self.device = device
        self.valid_fraction = valid_fraction
        self.random_state = random_state

    def _config(self) -> TrainConfig:
        if not isinstance(self.random_state, int | np.integer):
            raise ValueError(f"random_state is {self.random_state!r}; it must be an integer")
        parameters = self.get_params().items()
        settings = {name: value for name, value in parameters if name not in _ESTIMATOR_ONLY and value is not None}
        config = TrainConfig.of(
            **settings, csv=Path("memory"), target_columns=("y",), task=self._task, runs=1, seed=self.random_state
        )
        config.check()
        return config.resolved()

    def _checked_config(self) -> TrainConfig:
        """Settings of stage 2.

        Raises:
            ValueError: they cannot work; scikit-learn's callers expect this one.
        """
        try:
            return self._config()
        except KFLM2Error as error:
            raise ValueError(str(error)) from error

    def _fit(self, smiles: list[str], y_true: np.ndarray, classes: tuple[tuple[str, str], ...] = ()) -> None:
        """Train.

        Args:
            smiles: (n,)
            y_true: (n, K), NaN where a label is missing.
            classes: words of class 0 and class 1.

        Raises:
            ValueError: it cannot be done with these molecules and settings.
        """
        config = self._checked_config()
        if not 0 < self.valid_fraction < 1:
            raise ValueError(f"valid_fraction is {self.valid_fraction}; it must be between 0 and 1")
        index = np.flatnonzero(~np.isnan(y_true).all(axis=1))  # what has no label at all cannot be held out either
        smiles, y_true, count = [smiles[i] for i in index], y_true[index], len(index)
        valid = max(1, round(self.valid_fraction * count))
        if count - valid < 2:
            raise ValueError(f"{count} molecules with labels are too few: some train, and some must choose the epoch")
        targets = ("y",) if y_true.shape[1] == 1 else tuple(f"y{k}" for k in range(y_true.shape[1]))
        molecules = Molecules(
            dataset=Dataset("memory", (), targets, task=self._task, classes=classes),
            sha256=sha256_texts([*smiles, *map(str, y_true.ravel())]),
            read=count,
            rows=np.arange(1, count + 1),
            smiles=smiles,
            y_true=y_true,
            parts=None,
            rejected=(),
            missing=int(np.isnan(y_true).sum()),
            padded=0,
        )
        molecules = standardize(molecules, config.standardize)
        if molecules.rejected:
            first = molecules.rejected[0]
            raise ValueError(f"X[{index[first.row - 1]}] {first.smiles!r}: {first.reason}")
        # replicates are held out together: the molecules that will be predicted may all be new ones
        groups = structure_groups(molecules.smiles, range(count), least=config.folds or 2)
        train, held_out = hold_out(np.arange(count), valid, self.random_state, groups)
        split = Split("random", np.sort(train), np.sort(held_out), np.zeros(0, dtype=int))
        try:
            if config.folds:
                split = with_folds(split, config.folds, self.random_state, groups)
            self.bundle_ = make_bundle(experiment.fit_once(config, molecules, split))
        except KFLM2Error as error:
            raise ValueError(str(error)) from error
        self.bundle_.provenance["valid_fraction"] = float(self.valid_fraction)

    def _predictions(self, X: Any, confidence: float = CONFIDENCE) -> Predictions:
        check_is_fitted(self)
        if not 0 < confidence < 1:
            raise ValueError(f"confidence is {confidence}; it must be between 0 and 1, such as 0.9")
        smiles = _smiles_list(X)
        predictions = Predictor(self.bundle_).predict(smiles, confidence)
        for i, status in enumerate(predictions.status):
            if status != OK:
                raise ValueError(f"X[{i}] {smiles[i]!r}: {status}")
        return predictions

    def save(self, folder: str | Path) -> Self:
        """Write the fitted model as a bundle; `kflm2 predict` and `load` read it."""
        check_is_fitted(self)
        path = Path(folder)
        self.bundle_.save(path, card(self.bundle_, path.name))
        return self

    @classmethod
    def load(cls, folder: str | Path, llm: str | None = None) -> Self:
        """A fitted estimator from a bundle, with the parameters that it was made with.

        Not those that a machine decides: adapter and device are auto, and llm is what is given here.

        Args:
            folder: of the bundle.
            llm: where its LLM is, for one that is not in the registry.

        Raises:
            ValueError: a bundle of the other task, of several targets for a classifier, or one that reads columns
                beside the structure.
            KFLM2Error: the bundle cannot be used.
        """
        bundle = load_bundle(Path(folder), llm, torch.device("cpu"))
        if bundle.task != cls._task:
            raise ValueError(f"bundle {folder} is of {bundle.task}, and {cls.__name__} of {cls._task}")
        if bundle.covariates is not None:
            raise ValueError(
                f"{also_needed(bundle.covariates.names)}, and X is SMILES alone: read it by kflm2.load, which predicts"
                " tables"
            )
        parameters = {name: getattr(bundle.config, name) for name in {*cls._get_param_names()} & {*SAVED_SETTINGS}}
        parameters["ensemble"] = len(bundle.ensemble.members)
        if bundle.source is not None:
            parameters["layers"] = ",".join(map(str, bundle.source.layers))
            parameters["precision"] = bundle.source.precision
        if llm is not None:
            parameters["llm"] = llm
        made = {
            "random_state": bundle.provenance.get("seed"),
            "valid_fraction": bundle.provenance.get("valid_fraction"),
        }
        estimator = cls(**parameters, **{name: value for name, value in made.items() if value is not None})
        estimator._set_bundle(bundle)
        return estimator

    def _set_bundle(self, bundle: Bundle) -> None:
        self.bundle_ = bundle

    def __sklearn_tags__(self) -> Any:
        """X is one column of strings."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


class KFLM2Regressor(RegressorMixin, _Estimator):
    """Regression of one or several targets from SMILES; labels may be missing."""

    _task = "regression"

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train.

        Args:
            X: (n,) SMILES.
            y: (n,) or (n, K) targets, NaN where a label is missing.

        Raises:
            ValueError: a SMILES or a target that cannot be used; the message gives the index of the SMILES.
        """
        smiles, y_true = _smiles_list(X), np.asarray(y, dtype=float)
        _check_lengths(smiles, y_true)
        if np.isinf(y_true).any():
            raise ValueError("y holds infinity")
        self._fit(smiles, y_true.reshape(len(smiles), -1))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(n,) or (n, K) predictions."""
        return self._squeeze(self._predictions(X).y_pred)

    def predict_interval(self, X: Any, confidence: float = CONFIDENCE) -> np.ndarray:
        """(n, 2) or (n, K, 2) lower and upper bounds of intervals that contain the true value at a given confidence."""
        intervals = self._predictions(X, confidence).intervals
        assert intervals is not None
        return self._squeeze(intervals)

    def _squeeze(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if values.shape[1] == 1 else values

    def __sklearn_tags__(self) -> Any:
        """Several targets are allowed."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KFLM2Classifier(ClassifierMixin, _Estimator):
    """Binary classification from SMILES."""

    _task = "classification"

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train.

        Args:
            X: (n,) SMILES.
            y: (n,) labels, of two values.

        Raises:
            ValueError: a SMILES that cannot be used; the message gives its index. Or not two classes.
        """
        smiles, labels = _smiles_list(X), np.asarray(y)
        _check_lengths(smiles, labels)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1:
            raise ValueError(f"y is of shape {labels.shape}; it must be (n,), a label a molecule")
        if pd.isna(labels).any():
            raise ValueError("y has missing labels; leave these molecules out")
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) != 2:
            raise ValueError(f"y has {len(self.classes_)} classes; two are told apart")
        negative, positive = map(str, self.classes_)
        self._fit(smiles, indices.astype(float)[:, None], ((negative, positive),))
        self.bundle_.provenance["classes"] = self.classes_.tolist()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, 2) calibrated probabilities of the classes, in the order of classes_."""
        probability = self._predictions(X).y_pred[:, 0]
        return np.stack([1 - probability, probability], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """(n,) the more probable class."""
        return self.classes_[(self.predict_proba(X)[:, 1] >= 0.5).astype(int)]

    def predict_set(self, X: Any, confidence: float = CONFIDENCE) -> np.ndarray:
        """(n, 2) whether each class is in the set, which contains the true class at a given confidence."""
        sets = self._predictions(X, confidence).sets
        assert sets is not None
        return sets[:, 0]

    def _set_bundle(self, bundle: Bundle) -> None:
        super()._set_bundle(bundle)
        if len(bundle.targets) > 1:
            raise ValueError(f"the bundle predicts {len(bundle.targets)} targets; kflm2 predict reads it")
        (words,) = bundle.classes
        self.classes_ = np.array(bundle.provenance.get("classes", [0, 1] if words == ("0", "1") else words))

    def __sklearn_tags__(self) -> Any:
        """More than two classes are not allowed."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _smiles_list(X: Any) -> list[str]:
    """SMILES from a list, an array, a Series, or a table of one column.

    Raises:
        ValueError: another input, or a SMILES that cannot be read.
    """
    values = np.asarray(X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"X is of shape {values.shape}; it must be (n,), a SMILES a molecule")
    if not len(values):
        raise ValueError("X has no molecule")
    smiles = []
    for i, text in enumerate(values):
        if not isinstance(text, str):
            raise ValueError(f"X[{i}] is {text!r}, not a SMILES")
        try:
            parse_smiles(text.strip())
        except MoleculeError as error:
            raise ValueError(f"X[{i}] {text!r}: {error}") from None
        smiles.append(text.strip())
    return smiles


def _check_lengths(smiles: list[str], y: np.ndarray) -> None:
    if y.ndim < 1 or len(y) != len(smiles):
        raise ValueError(f"X has {len(smiles)} molecules, y {len(y) if y.ndim else 'none'}")
