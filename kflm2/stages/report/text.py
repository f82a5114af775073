"""Sentences of the page: the method shown first, the coverage of the intervals, the results of an audit."""

from typing import Any

from kflm2.metrics import conformal
from kflm2.metrics.scores import SMALLER_IS_BETTER, summarize
from kflm2.results.saved_runs import mean_weights
from kflm2.stages.report.collection import SavedDataset, SavedMethod
from kflm2.text_table import mean_and_std


def first_shown(dataset: SavedDataset) -> tuple[int, str]:
    """Index of the method to show first, and the reason: the best by the validation metric, not by the test metric."""
    metric = dataset.record.primary_metric
    # metrics on different molecules cannot be compared: take the kind of split with most methods, and of equal kinds
    # the first of this order
    order = ["random", "cv5x5", "given", "scaffold_cv5x5", "scaffold"]

    def importance(group: list[SavedMethod]) -> tuple[int, int, str]:
        kind = group[0].split
        return -len(group), order.index(kind) if kind in order else len(order), kind

    group = min(dataset.groups, key=importance)
    best: tuple[float, int, float] | None = None
    for index, method in enumerate(dataset.methods):
        mean, _ = summarize(method.values("valid", metric))
        if method in group and mean is not None:
            best = min(best or (1e300, 0, 0.0), (mean if metric in SMALLER_IS_BETTER else -mean, index, mean))
    if best is None:
        return 0, "No method has a metric on validation; the first one is shown."
    name, split = dataset.methods[best[1]].name, group[0].split
    if len(group) == 1:
        return best[1], f"Shown first: {name}, the only method on {split} splits of its molecules."
    return best[1], (
        f"Shown first: {name}, the best of the {len(group)} methods on {split} splits by validation {metric}"
        f" ({best[2]:.3f}, mean over its runs). The test part was not used for this choice."
    )


def share_of(method: SavedMethod) -> str:
    """Coverage of the test labels, mean ± standard deviation of the runs, in percent."""
    mean, sd = summarize([run.coverage.share for run in method.runs])
    if mean is None:
        return "unknown"
    return f"{100 * mean:.1f} %" if sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f} %"


def promise(method: SavedMethod, dataset: SavedDataset) -> dict[str, Any]:
    """Nominal and measured coverage of a method's intervals (for classes: sets of classes).

    Returns:
        `sentences`, and `command`, which measures the coverage on new scaffolds; None if it has been measured.
    """
    regression = dataset.record.task == "regression"
    sets, target = ("intervals", "the measured value") if regression else ("sets of classes", "the true class")
    confidence = method.first.coverage.confidence
    same_name = [entry for entry in dataset.methods if entry.name == method.name]
    shares = "; ".join(f"on {entry.split} splits {share_of(entry)} ({_run_count(entry)})" for entry in same_name)
    fewest = min(run.calibration.fewest for run in method.runs)
    folds = method.first.folds
    worth = conformal.promise(fewest, dataset.record.task, confidence, folds)
    learnt = "those of the inner folds" if folds else "those of the validation part"
    lines = [
        f"Nominal coverage: {100 * confidence:g} % of the {sets} hold {target}. Measured for {method.name}: {shares}.",
        f"{worth[0].upper()}{worth[1:]}.",
        f"The nominal coverage holds for new molecules that are like {learnt}. For new scaffolds no coverage is"
        " guaranteed.",
    ]
    if weights := mean_weights([run.result for run in method.runs]):
        parts = ", ".join(f"{name} {mean_and_std(*pair, digits=2)}" for name, pair in weights.items())
        lines.append(f"Weights of the network and of the models beside it: {parts}.")
    scaffold = next((entry for entry in same_name if entry.split.startswith("scaffold")), None)
    if scaffold is not None:
        mean, _ = summarize([run.coverage.share for run in scaffold.runs])
        if mean is not None:
            points = 100 * (mean - confidence)
            difference = f"{abs(points):.1f} points {'below' if points < 0 else 'above'} the nominal coverage"
            lines.append(
                f"On {scaffold.split} splits the coverage is {share_of(scaffold)}, {difference}. There the validation"
                " part has new scaffolds too; the coverage of intervals calibrated on known scaffolds would be lower."
            )
        return {"sentences": lines, "command": None}
    lines.append(f"The coverage on new scaffolds was not measured for {method.name}.")
    others = [f"{entry.name} {share_of(entry)}" for entry in dataset.methods if entry.split.startswith("scaffold")]
    if others:
        lines[-1] += " Of other methods, on scaffold splits: " + "; ".join(others) + "."
    lines[-1] += " This measures it:"
    return {"sentences": lines, "command": method.on_scaffolds}


def _run_count(method: SavedMethod) -> str:
    return f"{len(method.runs)} run{'' if len(method.runs) == 1 else 's'}"


def audit(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of an audit as sentences.

    Args:
        summary: content of audit.json.

    Returns:
        `text` of each sentence, and `doubt`, whether the result makes the metrics of the dataset doubtful.
    """
    try:
        return _audit(summary)
    except (KeyError, TypeError, ValueError):  # of another version
        return [{"text": "This audit.json is of another form than this version of kflm2 reads.", "doubt": True}]


def _audit(summary: dict[str, Any]) -> list[dict[str, Any]]:
    rows, smiles, duplicates = summary["rows"], summary["smiles"], summary["duplicates"]
    leakage, (low, median, high) = summary["leakage"], summary["similarity"]["quartiles"]
    # audits of earlier versions have no number of those that differ
    contradicting = duplicates.get("groups_that_differ", duplicates["groups"] - duplicates["groups_that_agree"])
    leaked, repeated = leakage["same_structure"], duplicates["same_structure"]
    missing = summary["labels"]["missing"]
    spread = f", by {duplicates['largest_spread']:.3g} at most" if summary["dataset"]["kind"] == "regression" else ""
    duplicates_text = "No structure occurs more than once (by InChIKey)."
    if repeated:
        duplicates_text = f"{repeated:,} rows repeat a structure (by InChIKey)."
        if contradicting:
            groups = f"{contradicting:,} of {duplicates['groups']:,} such groups"
            duplicates_text += f" In {groups} the labels differ{spread}."
    return [
        _line(f"{rows['rejected']:,} of {rows['read']:,} rows cannot be used.", rows["rejected"]),
        _line(duplicates_text, repeated),
        _line(
            f"{leaked:,} of {leakage['test_molecules']:,} test molecules are in train or valid too"
            f"{', {:,} of them with another label'.format(leakage['with_another_label']) if leaked else ''}.",
            leaked,
        ),
        _line(
            f"The training molecule nearest to a test molecule has a Tanimoto similarity of {median:.2f} at the median"
            f" ({low:.2f} to {high:.2f} for the middle half)"
            + (f"; {100 * summary['similarity']['share_above_0.9']:.0f} % have one above 0.9." if high > 0.9 else "."),
            median > 0.7,
        ),
        _line(f"{missing:,} labels are missing." if missing else "No label is missing.", missing),
        _line(
            f"{smiles['salts_or_mixtures']:,} salts or mixtures, {smiles['undefined_stereo']:,} molecules with"
            f" undefined stereo, {smiles['one_or_two_atoms']:,} of one or two atoms.",
            False,
        ),
    ]


def _line(text: str, doubt: Any) -> dict[str, Any]:
    return {"text": text, "doubt": bool(doubt)}
