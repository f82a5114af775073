"""Numbers behind a page's pictures: dots, curves, trends, the worst molecules, maps."""

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

from kflm2.files import keep_json, sha256_texts
from kflm2.results.saved_runs import Nearness, SavedMethod, SavedRun

WORST = 20
_DOTS = 1000
"""Molecules of a part that are drawn, at most."""
MAPPED = 1000
"""Molecules of a map, at most; t-SNE takes seconds for each view of so many."""
_CURVES = 10
"""Runs whose curves are drawn, at most."""
_POINTS = 60
_BINS = 10


def dots(run: SavedRun, near: Nearness) -> pd.DataFrame:
    """Rows of predictions.csv that are drawn, with their place in it and similarity; a fixed sample of large parts."""
    table = run.table.assign(place=np.arange(len(run.table)), similarity=near(run.table))
    rng = np.random.default_rng(0)
    own = [part if len(part) <= _DOTS else part.iloc[np.sort(rng.permutation(len(part))[:_DOTS])] for _, part in
           table.groupby("part", sort=True)]  # fmt: skip
    return pd.concat(own)


def trend(method: SavedMethod, near: Nearness, k: int) -> list[list[float]]:
    """Mean absolute error by similarity to train, test parts of all runs: (low, high, molecules, error) a bin.

    A molecule that several runs tested counts as often.
    """
    errors, values = [], []
    for run in method.runs:
        test = run.rows_of("test")
        errors.append(np.abs(run.y_pred[test, k] - run.y_true[test, k]))
        values.append(near(run.table)[test])
    error, value = np.concatenate(errors), np.concatenate(values)
    known = ~np.isnan(error) & ~np.isnan(value)
    error, value = error[known], value[known]
    place = np.minimum((value * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(place, minlength=_BINS)
    # a mean of a few molecules would be taken for a trend
    return [
        [i / _BINS, (i + 1) / _BINS, int(counts[i]), float(error[place == i].mean())]
        for i in range(_BINS)
        if counts[i] >= 5
    ]


def worst(method: SavedMethod, near: Nearness, k: int) -> list[dict[str, Any]]:
    """The test molecules with the largest absolute error, mean over the runs that tested them, the worst first."""
    tables = []
    for run in method.runs:
        test = run.rows_of("test") & ~np.isnan(run.y_true[:, k])
        table = run.table.loc[test, ["row", "smiles"]]
        true, pred = run.y_true[test, k], run.y_pred[test, k]
        tables.append(table.assign(true=true, pred=pred, error=np.abs(pred - true), near=near(run.table)[test]))
    grouped = pd.concat(tables).groupby(["row", "smiles"], as_index=False)
    table = grouped.agg(
        true=("true", "mean"), pred=("pred", "mean"), error=("error", "mean"), near=("near", "mean"),
        runs=("error", "size"),
    )  # fmt: skip
    # equals by their row, so that the order does not hang on the machine
    table = table.sort_values(["error", "row"], ascending=[False, True]).head(WORST)
    return table.to_dict("records")


def histories(method: SavedMethod) -> list[dict[str, Any]]:
    """Losses epoch by epoch of the first runs' models, where the runs kept them."""
    return [
        {"seed": run.seed, "best": best, "train": own["train"], "valid": own["valid"]}
        for run in method.runs[:_CURVES]
        if "history" in run.made
        for own, best in zip(run.made["history"], run.made["best_epoch"], strict=True)
    ]


def _curve(kind: str, true: np.ndarray, pred: np.ndarray) -> list[list[float]] | None:
    """ROC (false, true positive rate) or precision and recall (recall, precision), thinned; None with one class."""
    known = ~np.isnan(true)
    if not known.any() or np.ptp(true[known]) == 0:
        return None
    if kind == "roc":
        x, y, _ = metrics.roc_curve(true[known], pred[known])
    else:
        y, x, _ = metrics.precision_recall_curve(true[known], pred[known])
    if len(x) > _POINTS:
        chosen = np.unique(np.linspace(0, len(x) - 1, _POINTS).round().astype(int))
        x, y = x[chosen], y[chosen]
    return [x.tolist(), y.tolist()]


def curves(method: SavedMethod, k: int) -> dict[str, Any]:
    """ROC and PR curves: every part of the run that is shown, the test part of further ones, and how many are active.

    Areas are of the whole curves, not of the thinned ones.
    """
    first = method.first
    out: dict[str, Any] = {}
    for kind, area in (("roc", metrics.roc_auc_score), ("pr", metrics.average_precision_score)):
        parts = {}
        for part in ("train", "valid", "test"):
            rows = first.rows_of(part) & ~np.isnan(first.y_true[:, k])
            true, pred = first.y_true[rows, k], first.y_pred[rows, k]
            if (curve := _curve(kind, true, pred)) is not None:
                parts[part] = {"curve": curve, "area": float(area(true, pred)), "n": int(rows.sum())}
        others = [
            _curve(kind, run.y_true[run.rows_of("test"), k], run.y_pred[run.rows_of("test"), k])
            for run in method.runs[1:_CURVES]
        ]
        out[kind] = {"parts": parts, "others": [curve for curve in others if curve]}
    test = first.y_true[first.rows_of("test"), k]
    out["active"] = float(np.nanmean(test)) if not np.isnan(test).all() else None
    return out


def reliability(method: SavedMethod, k: int) -> dict[str, list[list[float]]]:
    """Mean probability, share that is active and molecules, in tenths of the test parts of all runs.

    `raw` as the model gives them, `scaled` by the temperature of the run's validation part, as `kflm2 predict` gives
    them.
    """
    true, raw, scaled = [], [], []
    for run in method.runs:
        test = run.rows_of("test") & ~np.isnan(run.y_true[:, k])
        true.append(run.y_true[test, k])
        raw.append(run.y_pred[test, k])
        scaled.append(run.calibration.calibrated(run.y_pred[test])[:, k])
    return {
        name: _tenths(np.concatenate(true), np.concatenate(own)) for name, own in (("raw", raw), ("scaled", scaled))
    }


def _tenths(true: np.ndarray, pred: np.ndarray) -> list[list[float]]:
    order = np.argsort(pred, kind="stable")
    groups = [group for group in np.array_split(order, min(_BINS, max(1, len(order) // 5))) if len(group)]
    return [[float(pred[group].mean()), float(true[group].mean()), len(group)] for group in groups]


def maps(run: SavedRun) -> dict[str, Any] | None:
    """Two dimensions of a run's hidden states, by PCA and t-SNE, each view by itself; None where none were kept.

    Returns:
        `place`, of the molecules in predictions.csv; `views`, name -> {"pca", "tsne"} -> [x, y], in 0..1, at one scale;
        `share`, of the variance that the PCA shows, by view. t-SNE is missing for fewer than 5 molecules.
    """
    hidden = run.hidden()
    if hidden is None:
        return None
    rows = hidden.pop("row")
    views = [name for name in hidden if name != "fused"]
    if len(views) == 1 and np.array_equal(hidden[views[0]], hidden["fused"]):
        del hidden["fused"]  # there was nothing to fuse
    known = {row: place for place, row in enumerate(run.table["row"].tolist())}
    some = np.sort(np.random.default_rng(0).permutation(len(rows))[:MAPPED])
    some = np.array([i for i in some if int(rows[i]) in known])
    if len(some) < 3:
        return None
    out: dict[str, Any] = {"place": [known[int(rows[i])] for i in some], "views": {}, "share": {}}
    for name in sorted(hidden, key=lambda view: view == "fused"):
        states = hidden[name][some]
        key = {"states": sha256_texts([states.tobytes().hex()]), "sklearn": sklearn.__version__, "form": 1}
        # what takes seconds is not done again for a page that is made again
        found = keep_json("map", key, functools.partial(_two, states))
        out["views"][name], out["share"][name] = found["maps"], found["share"]
    return out


def _two(states: np.ndarray) -> dict[str, Any]:
    n, width = states.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a view of equal states has no variance to explain
        pca = PCA(min(2, width, n), random_state=0)
        flat = pca.fit_transform(states.astype(float))
    share = float(np.sum(pca.explained_variance_ratio_))
    found = {"pca": _unit(flat)}
    if n >= 5 and math.isfinite(share):
        model = TSNE(2, init="pca", perplexity=min(30.0, (n - 1) / 3), random_state=0)
        found["tsne"] = _unit(model.fit_transform(states))
    return {"maps": found, "share": share if math.isfinite(share) else None}


def _unit(points: np.ndarray) -> list[list[float]]:
    """(n, 1 or 2) to x and y in 0..1, with one scale for both."""
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    middle = (points.max(axis=0) + points.min(axis=0)) / 2
    size = float(np.ptp(points, axis=0).max()) or 1.0
    return ((points - middle) / size + 0.5).round(3).T.tolist()
