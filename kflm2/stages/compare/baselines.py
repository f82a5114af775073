"""Baselines without an LLM or a graph network: mean, nearest neighbours, random forest, boosting, SVM."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from sklearn.svm import SVC, SVR

from kflm2.data.datasets import Task
from kflm2.data.similarity import Fingerprints, fingerprints, most_similar
from kflm2.errors import SettingError
from kflm2.featurize.descriptors import DescriptorScaler, compute_descriptors

NEIGHBOURS = 5
TREES = 500
ROUNDS = 2000
PENALTIES = (1.0, 10.0, 100.0)
"""C of the support vector machine; chosen on the validation part."""

ABOUT = {
    "mean": "mean of the training part",
    "knn": f"mean of the {NEIGHBOURS} training molecules most similar by Tanimoto (Morgan, radius 2)",
    "forest": f"random forest of {TREES} trees on RDKit and Morgan descriptors",
    "xgboost": f"gradient boosting of at most {ROUNDS} trees on RDKit and Morgan descriptors, stopped by validation",
    "svm": "support vector machine (RBF) on RDKit and Morgan descriptors, C chosen on validation",
}


class Baselines:
    """Baselines for one table of molecules; fingerprints and descriptors are computed once."""

    def __init__(self, smiles: list[str], y_true: np.ndarray, task: Task) -> None:
        """Set the molecules and their labels.

        Args:
            smiles: n SMILES.
            y_true: (n, K), NaN where the label is missing.
            task: of the targets.
        """
        self.smiles, self.y_true, self.task = smiles, y_true, task

    @cached_property
    def _prints(self) -> Fingerprints:
        return fingerprints(self.smiles)

    @cached_property
    def _rdkit(self) -> np.ndarray:
        return compute_descriptors("rdkit", self.smiles)

    @cached_property
    def _morgan(self) -> np.ndarray:
        return compute_descriptors("morgan", self.smiles)

    def predict(self, name: str, train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[np.ndarray, list[Any]]:
        """Fit a baseline on the training part.

        Args:
            name: a key of ABOUT.
            train: rows.
            valid: rows for the choice of settings.
            seed: of the random forest and of the boosting.

        Returns:
            (n, K) predictions for all molecules, for classes the probability of class 1; and for each target the
            settings chosen on validation, None where there are none.

        Raises:
            SettingError: xgboost is not installed.
        """
        fit: dict[str, Callable] = {
            "mean": self._mean,
            "knn": self._knn,
            "forest": self._forest,
            "xgboost": self._boosted,
            "svm": self._svm,
        }
        predictions, choices = [], []
        for y_true in self.y_true.T:
            labelled = [rows[~np.isnan(y_true[rows])] for rows in (train, valid)]
            y_pred, choice = fit[name](y_true, *labelled, seed)
            predictions.append(y_pred)
            choices.append(choice)
        return np.stack(predictions, axis=1), choices

    def _mean(self, y_true: np.ndarray, train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[np.ndarray, Any]:
        return np.full(len(y_true), y_true[train].mean()), None

    def _knn(self, y_true: np.ndarray, train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[np.ndarray, Any]:
        references = [self._prints[row] for row in train]
        neighbours = [most_similar(query, references, NEIGHBOURS) for query in self._prints]
        return np.array([y_true[train[index]].mean() for index in neighbours]), None

    def _forest(self, y_true: np.ndarray, train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[np.ndarray, Any]:
        x = np.concatenate([self._rdkit, self._morgan], axis=1)
        if self.task == "regression":
            # a third of the columns at each split, as Breiman advises for regression
            regressor = RandomForestRegressor(TREES, max_features=1 / 3, n_jobs=-1, random_state=seed)
            # one thread for prediction: several would sum the trees in any order, and the last bits would differ
            return regressor.fit(x[train], y_true[train]).set_params(n_jobs=1).predict(x), None
        if np.ptp(y_true[train]) == 0:
            return self._mean(y_true, train, valid, seed)
        classifier = RandomForestClassifier(TREES, n_jobs=-1, random_state=seed)
        return classifier.fit(x[train], y_true[train]).set_params(n_jobs=1).predict_proba(x)[:, 1], None

    def _boosted(self, y_true: np.ndarray, train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[np.ndarray, Any]:
        try:
            import xgboost
        except ImportError:
            raise SettingError("the baseline xgboost needs the package xgboost: pip install xgboost") from None
        if np.ptp(y_true[train]) == 0:
            return self._mean(y_true, train, valid, seed)
        x = np.concatenate([self._rdkit, self._morgan], axis=1)
        regression = self.task == "regression"
        estimator = xgboost.XGBRegressor if regression else xgboost.XGBClassifier
        model = estimator(
            n_estimators=ROUNDS,
            learning_rate=0.03,
            subsample=0.8,
            colsample_bytree=0.3,
            random_state=seed,
            early_stopping_rounds=50 if len(valid) else None,
        )
        eval_set = [(x[valid], y_true[valid])] if len(valid) else None
        model.fit(x[train], y_true[train], eval_set=eval_set, verbose=False)
        y_pred = model.predict(x) if regression else model.predict_proba(x)[:, 1]
        return y_pred.astype(float), {"trees": model.best_iteration + 1 if eval_set else ROUNDS}

    def _svm(self, y_true: np.ndarray, train: np.ndarray, valid: np.ndarray, seed: int) -> tuple[np.ndarray, Any]:
        x = np.concatenate([DescriptorScaler(self._rdkit[train])(self._rdkit), self._morgan], axis=1)
        if np.ptp(y_true[train]) == 0:
            return self._mean(y_true, train, valid, seed)
        y_pred = {penalty: self._fit_svm(x, y_true, train, valid, penalty) for penalty in PENALTIES}
        error = self._error(y_true[valid])
        best = min(y_pred, key=lambda penalty: error(y_pred[penalty][valid]))
        return y_pred[best], {"C": best}

    def _error(self, y_true: np.ndarray) -> Callable[[np.ndarray], float]:
        """Validation error of predictions, smaller is better; constant where no metric can be computed.

        With a constant error the first candidate is chosen.
        """
        if self.task == "regression" and len(y_true):
            return lambda y_pred: float(root_mean_squared_error(y_true, y_pred))
        if self.task == "classification" and len(y_true) and np.ptp(y_true) > 0:
            return lambda y_pred: -float(roc_auc_score(y_true, y_pred))
        return lambda y_pred: 0.0

    def _fit_svm(
        self, x: np.ndarray, y_true: np.ndarray, train: np.ndarray, valid: np.ndarray, penalty: float
    ) -> np.ndarray:
        if self.task == "regression":
            mean, std = y_true[train].mean(), y_true[train].std()
            return SVR(C=penalty).fit(x[train], (y_true[train] - mean) / std).predict(x) * std + mean
        margins = SVC(C=penalty).fit(x[train], y_true[train]).decision_function(x)
        if not len(valid) or np.ptp(y_true[valid]) == 0:
            return expit(margins)
        # Platt scaling: probabilities from the margins of molecules that the machine was not fitted to
        platt = LogisticRegression().fit(margins[valid, None], y_true[valid])
        # abs: for a poor machine the slope may be negative on validation; the ranking by margin is preserved
        return expit(abs(platt.coef_[0, 0]) * margins + platt.intercept_[0])
