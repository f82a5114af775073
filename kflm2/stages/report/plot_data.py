"""Data of the page's plots: dots, curves, trends, the worst molecules, maps."""

import functools
import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn import metrics
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from kflm2.files import cached_json, sha256_texts
from kflm2.results.saved_runs import SavedRun
from kflm2.stages.report.collection import SavedMethod, Similarity

WORST = 20
_DOTS = 1000
"""Maximum molecules of a part that are drawn."""
MAPPED = 1000
"""Maximum molecules of a map; with so many, t-SNE takes seconds for each view."""
_CURVES = 10
"""Maximum runs whose curves are drawn."""
_POINTS = 60
"""Maximum points of a curve."""
_BINS = 10


def dots(run: SavedRun, similarity: Similarity) -> pd.DataFrame:
    """Rows of predictions.csv to draw, with their position in it and similarity; a fixed sample of large parts."""
    table = run.table.assign(part=run.parts, position=np.arange(len(run.table)), similarity=similarity(run.table))
    rng = np.random.default_rng(0)
    drawn = [part if len(part) <= _DOTS else part.iloc[np.sort(rng.permutation(len(part))[:_DOTS])] for _, part in
             table.groupby("part", sort=True)]  # fmt: skip
    return pd.concat(drawn)


def trend(method: SavedMethod, similarity: Similarity, k: int) -> list[list[float]]:
    """Mean absolute error by similarity to train, over the test parts of all runs.

    Returns:
        [low, high, molecules, error] for each bin with at least 5 molecules; a molecule in the test part of several
        runs is counted once for each.
    """
    errors, similarities = [], []
    for run in method.runs:
        test = run.rows_of("test")
        errors.append(np.abs(run.y_pred[test, k] - run.y_true[test, k]))
        similarities.append(similarity(run.table)[test])
    error, value = np.concatenate(errors), np.concatenate(similarities)
    known = ~np.isnan(error) & ~np.isnan(value)
    error, value = error[known], value[known]
    bins = np.minimum((value * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    # the mean of fewer molecules is too noisy
    return [
        [i / _BINS, (i + 1) / _BINS, int(counts[i]), float(error[bins == i].mean())]
        for i in range(_BINS)
        if counts[i] >= 5
    ]


def worst(method: SavedMethod, similarity: Similarity, k: int) -> list[dict[str, Any]]:
    """The test molecules with the largest absolute error, mean over the runs that tested them, largest first."""
    tables = []
    for run in method.runs:
        test = run.rows_of("test") & ~np.isnan(run.y_true[:, k])
        table = run.table.loc[test, ["row", "smiles"]]
        true, pred = run.y_true[test, k], run.y_pred[test, k]
        tables.append(table.assign(true=true, pred=pred, error=np.abs(pred - true), near=similarity(run.table)[test]))
    grouped = pd.concat(tables).groupby(["row", "smiles"], as_index=False)
    table = grouped.agg(
        true=("true", "mean"), pred=("pred", "mean"), error=("error", "mean"), near=("near", "mean"),
        runs=("error", "size"),
    )  # fmt: skip
    # equal errors are ordered by row, so that the order does not depend on the machine
    table = table.sort_values(["error", "row"], ascending=[False, True]).head(WORST)
    return table.to_dict("records")


def histories(method: SavedMethod) -> list[dict[str, Any]]:
    """Losses per epoch of the models of the first runs, if the runs recorded them."""
    return [
        {"seed": run.seed, "best": best, "train": losses["train"], "valid": losses["valid"]}
        for run in method.runs[:_CURVES]
        for losses, best in zip(
            run.result.history or [], run.result.best_epoch if run.result.history else [], strict=True
        )
    ]


def _curve(kind: str, y_true: np.ndarray, y_pred: np.ndarray) -> list[list[float]] | None:
    """ROC (false, true positive rate) or PR curve (recall, precision) of at most 60 points; None with one class."""
    known = ~np.isnan(y_true)
    if not known.any() or np.ptp(y_true[known]) == 0:
        return None
    if kind == "roc":
        x, y, _ = metrics.roc_curve(y_true[known], y_pred[known])
    else:
        y, x, _ = metrics.precision_recall_curve(y_true[known], y_pred[known])
    if len(x) > _POINTS:
        chosen = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
        x, y = x[chosen], y[chosen]
    return [x.tolist(), y.tolist()]


def curves(method: SavedMethod, k: int) -> dict[str, Any]:
    """ROC and PR curves: all parts of the first run, the test part of further runs, and the share of class 1.

    The areas are those of the full curves, not of the curves reduced to 60 points.
    """
    first = method.first
    result: dict[str, Any] = {}
    for kind, area in (("roc", metrics.roc_auc_score), ("pr", metrics.average_precision_score)):
        parts = {}
        for part in ("train", "valid", "test"):
            rows = first.rows_of(part) & ~np.isnan(first.y_true[:, k])
            y_true, y_pred = first.y_true[rows, k], first.y_pred[rows, k]
            if (curve := _curve(kind, y_true, y_pred)) is not None:
                parts[part] = {"curve": curve, "area": float(area(y_true, y_pred)), "n": int(rows.sum())}
        further = [
            _curve(kind, run.y_true[run.rows_of("test"), k], run.y_pred[run.rows_of("test"), k])
            for run in method.runs[1:_CURVES]
        ]
        result[kind] = {"parts": parts, "others": [curve for curve in further if curve]}
    labels = first.y_true[first.rows_of("test"), k]
    result["active"] = float(np.nanmean(labels)) if not np.isnan(labels).all() else None
    return result


def reliability(method: SavedMethod, k: int) -> dict[str, list[list[float]]]:
    """Mean probability, share of class 1 and number of molecules, in ten groups of the test parts of all runs.

    Returns:
        `raw`, with the model's probabilities, and `scaled`, with the probabilities calibrated by the temperature of
        the run's validation part, as in `kflm2 predict`. Groups are of equal size, ordered by probability.
    """
    y_true, raw, scaled = [], [], []
    for run in method.runs:
        test = run.rows_of("test") & ~np.isnan(run.y_true[:, k])
        y_true.append(run.y_true[test, k])
        raw.append(run.y_pred[test, k])
        scaled.append(run.calibration.calibrated(run.y_pred[test])[:, k])
    return {
        name: _reliability_groups(np.concatenate(y_true), np.concatenate(y_pred))
        for name, y_pred in (("raw", raw), ("scaled", scaled))
    }


def _reliability_groups(y_true: np.ndarray, y_pred: np.ndarray) -> list[list[float]]:
    order = np.argsort(y_pred, kind="stable")
    groups = [group for group in np.array_split(order, min(_BINS, max(1, len(order) // 5))) if len(group)]
    return [[float(y_pred[group].mean()), float(y_true[group].mean()), len(group)] for group in groups]


def maps(run: SavedRun) -> dict[str, Any] | None:
    """Two-dimensional maps of a run's hidden states, by PCA and t-SNE, for each view; None without hidden states.

    Returns:
        `position`, of the molecules in predictions.csv; `views`, name -> {"pca", "tsne"} -> [x, y], in 0..1, with one
        scale for both; `share` of the variance that the PCA explains, by view. t-SNE is missing for fewer than 5
        molecules; the result is None for fewer than 3.
    """
    hidden = run.hidden()
    if hidden is None:
        return None
    rows = hidden.pop("row")
    views = [name for name in hidden if name != "fused"]
    if len(views) == 1 and np.array_equal(hidden[views[0]], hidden["fused"]):
        del hidden["fused"]  # the same as the only view
    positions = {row: position for position, row in enumerate(run.table["row"].tolist())}
    sample = np.sort(np.random.default_rng(0).permutation(len(rows))[:MAPPED])
    sample = np.array([i for i in sample if int(rows[i]) in positions])
    if len(sample) < 3:
        return None
    result: dict[str, Any] = {"position": [positions[int(rows[i])] for i in sample], "views": {}, "share": {}}
    for name in sorted(hidden, key=lambda view: view == "fused"):
        states = hidden[name][sample]
        key = {"states": sha256_texts([states.tobytes().hex()]), "sklearn": sklearn.__version__, "form": 2}
        # cached, since a map takes seconds
        projection = cached_json("map", key, functools.partial(_project, states))
        result["views"][name], result["share"][name] = projection["maps"], projection["share"]
    return result


def _project(states: np.ndarray) -> dict[str, Any]:
    n, width = states.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # constant states have no variance to explain
        pca = PCA(min(2, width, n), random_state=0)
        points = pca.fit_transform(states.astype(float))
    share = float(np.sum(pca.explained_variance_ratio_))
    projections = {"pca": _unit_square(points)}
    if n >= 5 and math.isfinite(share):
        model = TSNE(2, init="pca", perplexity=min(30.0, (n - 1) / 3), random_state=0)
        projections["tsne"] = _unit_square(model.fit_transform(states))
    return {"maps": projections, "share": share if math.isfinite(share) else None}


def _unit_square(points: np.ndarray) -> list[list[float]]:
    """(n, 1 or 2) points as lists of x and y in 0..1, with one scale for both; an outlier lies on the edge."""
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    # far beyond nine of ten points: an outlier, which would press all others together
    low, high = np.percentile(points, (5, 95), axis=0)
    spread = float((high - low).max())
    if spread > 0:
        points = points.clip(low - spread, high + spread)
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    size = float(np.ptp(points, axis=0).max()) or 1.0
    return ((points - middle) / size + 0.5).round(3).T.tolist()
