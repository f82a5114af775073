"""The printed table of a pipeline's runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kflm2.config.pipelines import PIPELINES
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.data.structures import structure_digests
from kflm2.errors import DataError
from kflm2.featurize.covariate_scaler import CovariateScaler
from kflm2.llm.resolve import LLMSource
from kflm2.metrics.conformal import promise
from kflm2.metrics.scores import (
    IN_UNITS,
    METRIC_NAMES,
    PRIMARY_METRIC,
    SCALED_RMSE,
    Scores,
    summarize,
)
from kflm2.results.provenance import peak_memory_mb
from kflm2.results.saved_runs import SavedRun, mean_weights
from kflm2.results.schema import RunResult, development_note
from kflm2.text_table import aligned, mean_and_std, percent_range

_SHOWN = 5


def validation_metric(valid: Scores) -> str:
    """The primary metric on validation, for a progress bar."""
    name = valid.primary
    value = valid.mean[name]
    return "" if value is None else f"valid {name} {value:.3f}"


def rejections(molecules: Molecules) -> str:
    """One line a rejected row, the first few."""
    shown = [f"  row {entry.row}: {entry.smiles[:60]!r}: {entry.reason}" for entry in molecules.rejected[:_SHOWN]]
    more = len(molecules.rejected) - len(shown)
    return "\n".join(
        [
            f"{len(molecules.rejected)} of {molecules.read} rows are rejected (all are in rejected.csv):",
            *shown,
            *([f"  and {more} more"] if more > 0 else []),
        ]
    )


def notes(molecules: Molecules, reads_covariates: bool) -> list[str]:
    """What was read otherwise than it stands in the table, and labels of which only a bound is known.

    Args:
        molecules: of the table.
        reads_covariates: whether the pipeline reads the columns beside the structure.
    """
    lines = list(molecules.notes)
    if molecules.bounds is not None:
        lower, upper = (int(count) for count in (~np.isnan(molecules.bounds)).sum(axis=(1, 2)))
        lines.append(
            f"bounds    {lower} labels are lower bounds (>), {upper} upper bounds (<): in training a prediction that"
            " breaks one is an error; metrics and intervals are of exact labels only"
        )
    if molecules.covariates is not None:
        columns = CovariateScaler.fit(molecules.covariate_columns, molecules.covariates)
        unread = "" if reads_covariates else "; they are not read, as --views leaves covariates out"
        lines.append(f"features  columns beside the structure: {columns}{unread}")
    if molecules.weights is not None:
        low, high = molecules.weights.min(), molecules.weights.max()
        lines.append(f"weights   {low:g} to {high:g} in training; metrics count every label alike")
    return lines


def shared_structures(molecules: Molecules, seed: int, split: Split) -> str:
    """How many test molecules of a split are learnt from under another SMILES or row; '' for none."""
    digests = structure_digests(molecules.smiles)
    learnt = {digests[i] for i in (*split.train, *split.valid)}
    count = sum(digests[i] in learnt for i in split.test)
    if not count:
        return ""
    # with feature columns the rows of a structure may all be needed
    advice = (
        "--deduplicate makes one row of each"
        if molecules.covariates is None
        else "splits by scaffold or cluster keep the rows of a structure together"
    )
    return (
        f"note: {count} of {len(split.test)} test molecules (seed {seed}) have the structure of one that is learnt"
        f" from; {advice}"
    )


def constant_targets(molecules: Molecules, split: Split) -> list[str]:
    """A note for each target whose labels that are learnt from are all the same."""
    rows, notes = split.not_tested, []
    for k, name in enumerate(molecules.dataset.targets):
        labels = molecules.y_learnt[rows, k]
        known = labels[~np.isnan(labels)]
        bounded = molecules.bounds is not None and not np.isnan(molecules.bounds[:, rows, k]).all()
        if len(known) and np.ptp(known) == 0 and not bounded:
            notes.append(
                f"note: {name}: all {len(known)} labels that are learnt from are {known[0]:g}; a model learns nothing"
                " from them, however sure it may look"
            )
    return notes


def unknown_features(molecules: Molecules, seed: int, split: Split) -> str:
    """How many test molecules have a category, or a blank, that nothing is learnt of; '' for none."""
    if molecules.covariates is None:
        return ""
    columns = molecules.covariate_columns
    try:
        scaler = CovariateScaler.fit(columns, molecules.covariates[molecules.counted(split.learned)])
    except DataError as error:
        raise DataError(f"seed {seed}: {error}") from None
    count = int(scaler.unknown(scaler.of_table(columns, molecules.covariates[split.test])).sum())
    return (
        f"note: {count} of {len(split.test)} test molecules (seed {seed}) have a category, or a blank, in a feature"
        " column that no molecule has that is learnt from: they are predicted as if nothing were known of it"
        if count
        else ""
    )


def table(runs: Sequence[SavedRun], molecules: Molecules, source: LLMSource | None, folder: Path) -> str:
    """Mean ± standard deviation over the runs for every part of the split, and what the metrics were measured on.

    Args:
        runs: one a seed, in order.
        molecules: on which they were made.
        source: the LLM, where the model reads one.
        folder: of the runs.
    """
    first, last, dataset = runs[0].result, runs[-1].result, molecules.dataset
    targets = dataset.targets[0] if len(dataset.targets) == 1 else f"mean of {len(dataset.targets)} targets"
    quantity = f"{dataset.quantity or targets}{f', {dataset.unit}' if dataset.unit else ''}"
    seeds = (
        f"seed {first.seed}" if len(runs) == 1 else f"seeds {first.seed}..{last.seed}, mean ± sd of {len(runs)} runs"
    )
    sizes = _sizes(first)
    training = sum(run.result.seconds["training"] for run in runs)
    views = [f"{name} {value:.1f} s" for name, value in first.seconds.items() if name != "training"]
    lines = [
        "",
        f"{dataset.name} ({quantity}), {first.model}: {PIPELINES[first.model].about}",
        f"{first.split.kind} split {sizes}, {seeds}",
        "",
        *_metrics([run.result for run in runs]),
        *_development([run.result for run in runs]),
        *_targets([run.result for run in runs]),
        *_left_out([run.result for run in runs]),
        *_weights([run.result for run in runs]),
        *_coverage(runs),
        *_bounds([run.result for run in runs]),
        "",
        f"rows      read {molecules.read}, kept {len(molecules.smiles)}, rejected {len(molecules.rejected)}",
        f"LLM       {_llm(source, [run.result for run in runs])}",
        *_origin([run.result for run in runs]),
        f"time      {', '.join([*views, f'training {training:.1f} s in all'])}",
    ]
    if (peak := peak_memory_mb()) is not None:
        lines.append(f"memory    {peak} MB at most")
    return "\n".join([*lines, f"results   {folder}"])


def _sizes(run: RunResult) -> str:
    """Molecules in each part; with inner folds train and valid are one."""
    sizes = dict(run.split.sizes)
    if run.config.get("inner") != "folds":
        return " / ".join(f"{size} {part}" for part, size in sizes.items())
    learned = sizes.pop("train") + sizes.pop("valid")
    rest = "".join(f" / {size} {part}" for part, size in sizes.items())
    return f"{learned} in {run.config['ensemble']} inner folds{rest}"


def _weights(runs: Sequence[RunResult]) -> list[str]:
    """The network's and the voters' weights: mean and standard deviation over the runs and targets."""
    weights = mean_weights(runs)
    if not weights:
        return []
    cells = [f"{name} {mean_and_std(*pair, digits=2)}" for name, pair in weights.items()]
    return ["", f"weights ({runs[0].config['weights']}): {', '.join(cells)}"]


def _bounds(runs: Sequence[RunResult]) -> list[str]:
    """How many predictions of test keep the bounds that are known of their labels."""
    counts = [run.bounds["test"] for run in runs if "test" in run.bounds]
    labels, kept = (sum(count[name] for count in counts) for name in ("labels", "kept"))
    return [f"bounds    {kept} of {labels} predictions of test labels that are bounds keep them"] if labels else []


def _development(runs: Sequence[RunResult]) -> list[str]:
    note = development_note([run.development for run in runs])
    return ["", note] if note else []


def _origin(runs: Sequence[RunResult]) -> list[str]:
    """The saved model that the runs went on from, and what it knew of their test molecules."""
    origins = [run.origin for run in runs if run.origin is not None]
    if not origins:
        return []
    first, config = origins[0], runs[0].config
    how = f"at {config['encoder_rate']:g} of the learning rate" if config["encoder_rate"] else "as they are"
    known, tested = sum(origin.known for origin in origins), sum(_tested(run) for run in runs)
    others = sum(origin.known_others for origin in origins)
    lines = [
        f"from      {first.model}, of {first.dataset} ({', '.join(first.targets)}): its encoders {how};"
        f" it had learnt from {known} of {tested} test molecules"
    ]
    if others:
        lines.append(
            f"          and from {others} of the others: where it had their values too, metrics of valid are too good"
            " and intervals too narrow"
        )
    return lines


def _tested(run: RunResult) -> int:
    return sum(size for part, size in run.split.sizes.items() if part.startswith("test"))


def _llm(source: LLMSource | None, runs: Sequence[RunResult]) -> str:
    if source is None:
        return "none"
    read = f"{source}, adapter {source.adapter or 'none'}"
    kept = [run.variance for run in runs if run.variance is not None]
    return (
        f"{read}\n          its states as principal components, which keep {percent_range(kept)} of the variance"
        if kept
        else read
    )


def _metrics(runs: Sequence[RunResult]) -> list[str]:
    """A row a metric, a column a part."""
    parts, dataset = tuple(runs[0].metrics), runs[0].dataset
    rows = [["", *parts, ""]]
    remarks = dict.fromkeys(IN_UNITS, dataset.unit or "") | {SCALED_RMSE: "RMSE / sd of the target in train and valid"}
    for name in dataset.mean_metrics:
        cells = [
            mean_and_std(*summarize([run.metrics[part][name] for run in runs]), unit=name in IN_UNITS) for part in parts
        ]
        rows.append([name, *cells, remarks.get(name, "")])
    return aligned(rows, left=(0, len(parts) + 1))


def _targets(runs: Sequence[RunResult]) -> list[str]:
    """Metrics on test, target by target, where there are several: for classes the primary one only."""
    dataset = runs[0].dataset
    if len(dataset.targets) == 1:
        return []
    names = METRIC_NAMES["regression"] if dataset.task == "regression" else (PRIMARY_METRIC[dataset.task],)
    rows = [["test", *names]]
    for target in dataset.targets:
        metrics = [run.targets["test"][target] for run in runs]
        cells = [
            mean_and_std(*summarize([values[name] if values else None for values in metrics]), unit=name in IN_UNITS)
            for name in names
        ]
        rows.append([target, *cells])
    return ["", *aligned(rows)]


def _left_out(runs: Sequence[RunResult]) -> list[str]:
    """A line for every target that has no metric in some part of some run."""
    dataset = runs[0].dataset
    regression = dataset.task == "regression"
    reason = "fewer than two labels" if regression else "one class only"
    lines = []
    for target in dataset.targets:
        for part in runs[0].metrics:
            seeds = [str(run.seed) for run in runs if run.targets[part][target] is None]
            if seeds:
                which = "" if len(seeds) == len(runs) else f" of seed {', '.join(seeds)}"
                fallback = "; its threshold is 0.5" if part == "valid" and not regression else ""
                lines.append(f"left out of the mean on {part}{which}: {target}, which has {reason} there{fallback}")
    return ["", *lines] if lines else []


def _coverage(runs: Sequence[SavedRun]) -> list[str]:
    """How often intervals that were calibrated on validation hold the true value on test."""
    first = runs[0].result
    regression = first.dataset.task == "regression"
    if not first.coverage:
        return []
    lines = [""]
    for part, coverage in first.coverage.items():
        values = [run.result.coverage[part] for run in runs]
        share = mean_and_std(*summarize([_percent(value.share) for value in values]), digits=1)
        sizes = summarize([value.size for value in values])
        size = mean_and_std(*sizes, digits=2, unit=regression)
        width = f", wide {size} {first.dataset.unit or ''}".rstrip() if regression else f", of {size} classes"
        if sizes[0] is None:
            width = ""  # no label in the part, or a width in several units, or an infinite one, of which below
        kind = "intervals" if regression else "sets"
        lines.append(f"{100 * coverage.confidence:g} % {kind} hold {share} % of {part}{width}")
    fewest = min(run.calibration.fewest for run in runs)
    confidence = next(iter(first.coverage.values())).confidence
    return [*lines, promise(fewest, first.dataset.task, confidence, runs[0].folds)]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
