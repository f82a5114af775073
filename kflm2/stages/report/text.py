"""Sentences of a page: which method is shown first, what intervals promised and kept, what an audit found."""

from typing import Any

from kflm2.metrics.scores import PRIMARY_METRIC, SMALLER_IS_BETTER, summarize
from kflm2.results.saved_runs import SavedDataset, SavedMethod


def first_shown(dataset: SavedDataset) -> tuple[int, str]:
    """The method that is shown first, and why: the best on validation, so that the test part has no say."""
    figure = PRIMARY_METRIC[dataset.about["kind"]]
    counts: dict[str, int] = {}
    for method in dataset.methods:
        counts[method.split] = counts.get(method.split, 0) + 1
    # figures of different splits do not compare; of splits with equally many methods the commonest kind goes first
    order = ["random", "cv5x5", "given", "scaffold"]
    split = min(counts, key=lambda kind: (-counts[kind], order.index(kind) if kind in order else len(order), kind))
    best: tuple[float, int, float] | None = None
    for index, method in enumerate(dataset.methods):
        mean, _ = summarize(method.values("valid", figure))
        if method.split == split and mean is not None:
            best = min(best or (1e300, 0, 0.0), (mean if figure in SMALLER_IS_BETTER else -mean, index, mean))
    if best is None:
        return 0, "No method has a figure on validation; the first one is shown."
    name = dataset.methods[best[1]].name
    if counts[split] == 1:
        return best[1], f"Shown first: {name}, the only method on {split} splits."
    return best[1], (
        f"Shown first: {name}, the best of the {counts[split]} methods on {split} splits by validation {figure}"
        f" ({best[2]:.3f}, mean over its runs). The test part had no say in that."
    )


def share_of(method: SavedMethod) -> str:
    """What share of the test labels was held, mean ± sd of the runs, in percent."""
    mean, sd = summarize([run.coverage["share"] for run in method.runs])
    if mean is None:
        return "unknown"
    return f"{100 * mean:.1f} %" if sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f} %"


def promise(method: SavedMethod, dataset: SavedDataset) -> dict[str, Any]:
    """What the intervals (for classes the sets of classes) of a method promised, and what was found.

    Returns:
        `sentences`, and `command`, which would measure what was not measured; None where all was.
    """
    regression = dataset.about["kind"] == "regression"
    what, held = ("intervals", "the measured value") if regression else ("sets of classes", "the true class")
    confidence = method.first.coverage["confidence"]
    same = [other for other in dataset.methods if other.name == method.name]
    found = "; ".join(f"on {own.split} splits {share_of(own)} ({_runs(own)})" for own in same)
    lines = [
        f"Promised: {100 * confidence:g} % of the {what} hold {held}. Found for {method.name}: {found}.",
        "The promise stands on new molecules being like those of the validation part. New scaffolds are a shift that"
        " breaks it: for them nothing is promised.",
    ]
    own = next((other for other in same if other.split.startswith("scaffold")), None)
    if own is not None:
        mean, _ = summarize([run.coverage["share"] for run in own.runs])
        if mean is not None:
            points = 100 * (mean - confidence)
            found = f"{abs(points):.1f} points {'below' if points < 0 else 'above'} the promise"
            lines.append(
                f"On {own.split} splits {share_of(own)} were held, {found}. There the validation part has new scaffolds"
                " too; intervals that were set on familiar ones would hold less."
            )
        return {"sentences": lines, "command": None}
    lines.append(f"How much of it is left on new scaffolds was not measured for {method.name}.")
    others = [other for other in dataset.methods if other.split.startswith("scaffold")]
    if others:
        lines[-1] += " Of other methods: " + "; ".join(f"{other.name} held {share_of(other)}" for other in others) + "."
    lines[-1] += " This measures it:"
    return {"sentences": lines, "command": method.on_scaffolds}


def _runs(method: SavedMethod) -> str:
    return f"{len(method.runs)} run{'' if len(method.runs) == 1 else 's'}"


def audit(found: dict[str, Any]) -> list[dict[str, Any]]:
    """An audit's findings in words; `doubt` marks those that make figures doubtful."""
    try:
        return _audit(found)
    except (KeyError, TypeError, ValueError):  # of another version
        return [{"text": "This audit.json is of another form than this version of kflm2 reads.", "doubt": True}]


def _audit(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows, smiles, twice = found["rows"], found["smiles"], found["duplicates"]
    leak, (low, middle, high) = found["leakage"], found["similarity"]["quartiles"]
    differ = twice["groups"] - twice["groups_that_agree"]
    leaks, doubles = leak["same_structure"], twice["same_structure"]
    missing = found["labels"]["missing"]
    spread = f", by {twice['largest_spread']:.3g} at most" if found["dataset"]["kind"] == "regression" else ""
    doubled = (
        "No structure stands more than once (by InChIKey)."
        if not doubles
        else f"{doubles:,} rows repeat a structure (by InChIKey)."
        + (f" In {differ:,} of {twice['groups']:,} such groups the labels differ{spread}." if differ else "")
    )
    return [
        _line(f"{rows['rejected']:,} of {rows['read']:,} rows cannot be used.", rows["rejected"]),
        _line(doubled, doubles),
        _line(
            f"{leaks:,} of {leak['test_molecules']:,} test molecules are in train or valid too"
            f"{', {:,} of them with another label'.format(leak['with_another_label']) if leaks else ''}.",
            leaks,
        ),
        _line(
            f"The training molecule nearest to a test molecule has a Tanimoto similarity of {middle:.2f} at the median"
            f" ({low:.2f} to {high:.2f} for the middle half)"
            + (f"; {100 * found['similarity']['share_above_0.9']:.0f} % have one above 0.9." if high > 0.9 else "."),
            middle > 0.7,
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
