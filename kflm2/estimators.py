"""KFLM2 for scikit-learn: estimators that take SMILES where others take numbers.

from sklearn.model_selection import cross_val_score
from kflm2.estimators import KFLM2Regressor
print(cross_val_score(KFLM2Regressor(), smiles, y, cv=5))
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from kflm2.config.train import TrainConfig
from kflm2.data.datasets import Dataset, Task
from kflm2.data.molecules import Molecules, parse_smiles
from kflm2.data.splits import Split
from kflm2.data.structures import standardize
from kflm2.errors import MoleculeError
from kflm2.files import sha256_texts
from kflm2.metrics.conformal import CONFIDENCE
from kflm2.predictor import export as keeping
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.predictor import OK, Predicted, Predictor
from kflm2.stages.train import experiment

_OWN = ("valid_fraction", "random_state")
"""Parameters that are no settings of stage 2."""


class _Estimator(BaseEstimator):
    """What both have in common."""

    _kind: Task

    def __init__(
        self,
        model: str = "crossAtt",
        *,
        llm: str = "auto",
        adapter: str = "auto",
        layers: str = "middle",
        descriptors: str | None = None,
        standardize: str = "none",
        hidden: int | None = None,
        dropout: float | None = None,
        graph_encoder: str | None = None,
        graph_width: int | None = None,
        graph_depth: int | None = None,
        states_width: int | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        schedule: str | None = None,
        batch_size: int | None = None,
        weight_decay: float | None = None,
        patience: int | None = None,
        ensemble: int = 1,
        device: str = "auto",
        valid_fraction: float = 0.1,
        random_state: int = 0,
    ) -> None:
        """Choose a pipeline and its settings; see `kflm2 train --help`.

        Args:
            model: pipeline.
            llm: LLM.
            adapter: of the LLM.
            layers: of the LLM.
            descriptors: None takes the pipeline's own default, as in all that follows.
            standardize: of molecules.
            hidden: width of the fusion.
            dropout: share.
            graph_encoder: gcn or gine.
            graph_width: of gine.
            graph_depth: of gine.
            states_width: inner width of the embedding DNN.
            epochs: passes.
            learning_rate: step size.
            schedule: of the learning rate.
            batch_size: molecules in a step.
            weight_decay: decoupled.
            patience: epochs; 0 never stops early.
            ensemble: models whose mean predicts.
            device: auto, cpu, cuda or cuda:N.
            valid_fraction: share of what `fit` gets that chooses the epoch and calibrates intervals.
            random_state: seed of that split, of weights and of order.
        """
        self.model = model
        self.llm = llm
        self.adapter = adapter
        self.layers = layers
        self.descriptors = descriptors
        self.standardize = standardize
        self.hidden = hidden
        self.dropout = dropout
        self.graph_encoder = graph_encoder
        self.graph_width = graph_width
        self.graph_depth = graph_depth
        self.states_width = states_width
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.patience = patience
        self.ensemble = ensemble
        self.device = device
        self.valid_fraction = valid_fraction
        self.random_state = random_state

    def _config(self) -> TrainConfig:
        if not isinstance(self.random_state, int | np.integer):
            raise ValueError(f"random_state is {self.random_state!r}; it must be an integer")
        chosen = {name: value for name, value in self.get_params().items() if name not in _OWN and value is not None}
        config = TrainConfig.of(
            **chosen, csv=Path("memory"), target_columns=("y",), task=self._kind, runs=1, seed=self.random_state
        )
        config.check()
        return config

    def _fit(self, smiles: list[str], y_true: np.ndarray) -> None:
        config = self._config()
        if not 0 < self.valid_fraction < 1:
            raise ValueError(f"valid_fraction is {self.valid_fraction}; it must be between 0 and 1")
        count = len(smiles)
        valid = max(1, round(self.valid_fraction * count))
        if count - valid < 2:
            raise ValueError(f"{count} molecules are too few: some train, and some must choose the epoch")
        order = np.random.default_rng(self.random_state).permutation(count)
        split = Split("random", np.sort(order[valid:]), np.sort(order[:valid]), np.zeros(0, dtype=int))
        targets = ("y",) if y_true.shape[1] == 1 else tuple(f"y{k}" for k in range(y_true.shape[1]))
        molecules = Molecules(
            dataset=Dataset("memory", (), targets, task=self._kind),
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
            raise ValueError(f"X[{first.row - 1}] {first.smiles!r}: {first.reason}")
        self.bundle_ = keeping.bundle_of(experiment.fit_once(config, molecules, split))

    def _assemble(self, X: Any, confidence: float = CONFIDENCE) -> Predicted:
        check_is_fitted(self)
        smiles = _texts(X)
        said = Predictor(self.bundle_).predict(smiles, confidence)
        for number, status in enumerate(said.status):
            if status != OK:
                raise ValueError(f"X[{number}] {smiles[number]!r}: {status}")
        return said

    def save(self, folder: str | Path) -> Self:
        """Write the fitted model as a bundle; `kflm2 predict` and `load` read it."""
        check_is_fitted(self)
        path = Path(folder)
        self.bundle_.save(path, keeping.card(self.bundle_, path.name))
        return self

    @classmethod
    def load(cls, folder: str | Path, llm: str | None = None) -> Self:
        """A fitted estimator from a bundle.

        Args:
            folder: of the bundle.
            llm: where its LLM is, for one that is not of the registry.

        Raises:
            ValueError: a bundle of another kind.
            KFLM2Error: it cannot be used.
        """
        bundle = Bundle.load(Path(folder), llm, torch.device("cpu"))
        if bundle.task != cls._kind:
            raise ValueError(f"bundle {folder} is of {bundle.task}, and {cls.__name__} of {cls._kind}")
        names = set(cls._get_param_names()) & bundle.config.__dataclass_fields__.keys()
        kept = {name: getattr(bundle.config, name) for name in names - {"llm", "adapter", "layers", "device"}}
        kept["ensemble"] = len(bundle.ensemble.members)
        own = cls(**kept)
        own._loaded(bundle)
        return own

    def _loaded(self, bundle: Bundle) -> None:
        self.bundle_ = bundle

    def __sklearn_tags__(self) -> Any:
        """SMILES are no matrix of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


class KFLM2Regressor(RegressorMixin, _Estimator):
    """Predict numbers from SMILES; of several targets, some labels may be NaN."""

    _kind = "regression"

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train.

        Args:
            X: (n,) SMILES.
            y: (n,) or (n, K) targets, NaN where a label is missing.

        Raises:
            ValueError: a SMILES or a target that cannot be used, by its number.
        """
        smiles, y_true = _texts(X), np.asarray(y, dtype=float)
        _same_length(smiles, y_true)
        if np.isinf(y_true).any():
            raise ValueError("y holds infinity")
        self._fit(smiles, y_true.reshape(len(smiles), -1))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(n,) or (n, K) predictions."""
        return self._shaped(self._assemble(X).y_pred)

    def predict_interval(self, X: Any, confidence: float = CONFIDENCE) -> np.ndarray:
        """(n, 2) or (n, K, 2) low and high of intervals that hold the true value with a given confidence."""
        intervals = self._assemble(X, confidence).intervals
        assert intervals is not None
        return self._shaped(intervals)

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if values.shape[1] == 1 else values

    def __sklearn_tags__(self) -> Any:
        """It takes several targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KFLM2Classifier(ClassifierMixin, _Estimator):
    """Tell two classes apart by SMILES."""

    _kind = "classification"

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train.

        Args:
            X: (n,) SMILES.
            y: (n,) labels, of two values.

        Raises:
            ValueError: a SMILES that cannot be used, by its number, or not two classes.
        """
        smiles, labels = _texts(X), np.asarray(y)
        _same_length(smiles, labels)
        self.classes_, places = np.unique(labels, return_inverse=True)
        if labels.ndim != 1 or len(self.classes_) != 2:
            raise ValueError(f"y has {len(self.classes_)} classes; two are told apart")
        self._fit(smiles, places.astype(float)[:, None])
        self.bundle_.made["classes"] = self.classes_.tolist()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(n, 2) calibrated probabilities of the classes, in the order of classes_."""
        one = self._assemble(X).y_pred[:, 0]
        return np.stack([1 - one, one], axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """(n,) the likelier class."""
        return self.classes_[(self.predict_proba(X)[:, 1] >= 0.5).astype(int)]

    def predict_set(self, X: Any, confidence: float = CONFIDENCE) -> np.ndarray:
        """(n, 2) whether each class is possible: a true class is among them with a given confidence."""
        sets = self._assemble(X, confidence).sets
        assert sets is not None
        return sets[:, 0]

    def _loaded(self, bundle: Bundle) -> None:
        super()._loaded(bundle)
        if len(bundle.targets) > 1:
            raise ValueError(f"the bundle predicts {len(bundle.targets)} targets; kflm2 predict reads it")
        self.classes_ = np.array(bundle.made.get("classes", [0, 1]))

    def __sklearn_tags__(self) -> Any:
        """Two classes, no more."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _texts(X: Any) -> list[str]:
    """SMILES from a list, an array, a Series, or a table of one column.

    Raises:
        ValueError: something else, or a SMILES that cannot be read.
    """
    values = np.asarray(X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"X is of shape {values.shape}; it must be (n,), a SMILES a molecule")
    if not len(values):
        raise ValueError("X has no molecule")
    smiles = []
    for number, text in enumerate(values):
        if not isinstance(text, str):
            raise ValueError(f"X[{number}] is {text!r}, not a SMILES")
        try:
            parse_smiles(text.strip())
        except MoleculeError as error:
            raise ValueError(f"X[{number}] {text!r}: {error}") from None
        smiles.append(text.strip())
    return smiles


def _same_length(smiles: list[str], y: np.ndarray) -> None:
    if y.ndim < 1 or len(y) != len(smiles):
        raise ValueError(f"X has {len(smiles)} molecules, y {len(y) if y.ndim else 'none'}")
