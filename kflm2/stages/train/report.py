"""The printed table of a pipeline's runs."""

from collections.abc import Sequence
from pathlib import Path

from kflm2.config.pipelines import PIPELINES
from kflm2.data.molecules import Molecules
from kflm2.metrics.scores import METRIC_NAMES, PRIMARY_METRIC, Scores, summarize
from kflm2.results.provenance import peak_memory_mb
from kflm2.results.runs import Run


def short(valid: Scores) -> str:
    """The main figure on validation, for a progress bar."""
    name = PRIMARY_METRIC[valid.task]
    value = valid.mean[name]
    return "" if value is None else f"valid {name} {value:.3f}"


def rejections(molecules: Molecules, most: int = 5) -> str:
    """One line a rejected row, the first few."""
    shown = [f"  row {own.row}: {own.smiles[:60]!r}: {own.reason}" for own in molecules.rejected[:most]]
    more = len(molecules.rejected) - len(shown)
    return "\n".join(
        [
            f"{len(molecules.rejected)} of {molecules.read} rows are rejected (all are in rejected.csv):",
            *shown,
            *([f"  and {more} more"] if more > 0 else []),
        ]
    )


def table(runs: Sequence[Run], folder: Path) -> str:
    """Mean ± sd over the runs for every part of the split, and what the figures rest on."""
    first, last = runs[0], runs[-1]
    parts = tuple(first.scores)
    molecules, task = first.molecules, first.molecules.dataset.task
    dataset, source = molecules.dataset, first.source
    targets = dataset.targets[0] if len(dataset.targets) == 1 else f"mean of {len(dataset.targets)} targets"
    what = f"{dataset.quantity or targets}{f', {dataset.unit}' if dataset.unit else ''}"
    seeds = (
        f"seed {first.seed}" if len(runs) == 1 else f"seeds {first.seed}..{last.seed}, mean ± sd of {len(runs)} runs"
    )
    sizes = " / ".join(f"{size} {part}" for part, size in first.split.sizes.items())
    wide = max(10, *(len(name) + 2 for name in METRIC_NAMES[task]))
    lines = [
        "",
        f"{dataset.name} ({what}), {first.config.model}: {PIPELINES[first.config.model].about}",
        f"{first.split.kind} split {sizes}, {seeds}",
        "",
        f"{'':{wide}}" + "".join(f"{part:>18}" for part in parts),
    ]
    for name in METRIC_NAMES[task]:
        cells = [_cell(*summarize([run.scores[part].mean[name] for run in runs])) for part in parts]
        unit = dataset.unit if task == "regression" and name in ("RMSE", "MAE") else ""
        lines.append(f"{name:{wide}}" + "".join(f"{cell:>18}" for cell in cells) + (f"  {unit}" if unit else ""))
    lines += [*_targets(runs), *_left_out(runs), *_coverage(runs)]
    seconds = first.seconds
    training = sum(run.seconds["training"] for run in runs)
    views = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if name != "training")
    lines += [
        "",
        f"rows      read {molecules.read}, kept {len(molecules.smiles)}, rejected {len(molecules.rejected)}",
        "LLM       "
        + (
            "none"
            if source is None
            else f"{source.name}, layers {', '.join(map(str, source.layers))}, adapter {source.adapter or 'none'}"
        ),
        f"time      {views + ', ' if views else ''}training {training:.1f} s",
    ]
    if (peak := peak_memory_mb()) is not None:
        lines.append(f"memory    {peak} MB at most")
    lines.append(f"results   {folder}")
    return "\n".join(lines)


def _targets(runs: Sequence[Run]) -> list[str]:
    """The main figure on test, target by target, where there are several."""
    dataset = runs[0].molecules.dataset
    if len(dataset.targets) == 1:
        return []
    name = PRIMARY_METRIC[dataset.task]
    lines = ["", f"test {name} of each target"]
    for index, target in enumerate(dataset.targets):
        own = [run.scores["test"].targets[index] for run in runs]
        lines.append(f"{_cell(*summarize([figures[name] if figures else None for figures in own])):>18}  {target}")
    return lines


def _left_out(runs: Sequence[Run]) -> list[str]:
    """A line for every target that some run could not judge in some part."""
    first = runs[0]
    regression = first.molecules.dataset.task == "regression"
    why = "fewer than two labels" if regression else "one class only"
    lines = []
    for index, target in enumerate(first.molecules.dataset.targets):
        for part in first.scores:
            seeds = [str(run.seed) for run in runs if run.scores[part].targets[index] is None]
            if seeds:
                where = "" if len(seeds) == len(runs) else f" of seed {', '.join(seeds)}"
                fallback = "; its threshold is 0.5" if part == "valid" and not regression else ""
                lines.append(f"left out of the mean: {target}, of which {part}{where} has {why}{fallback}")
    return ["", *lines] if lines else []


def _coverage(runs: Sequence[Run]) -> list[str]:
    """How far intervals calibrated on validation can be trusted on test."""
    first = runs[0]
    regression = first.molecules.dataset.task == "regression"
    lines = [""]
    for part, own in first.coverage.items():
        share = _cell(*summarize([_percent(run.coverage[part].share) for run in runs]), digits=1)
        size = _cell(*summarize([run.coverage[part].size for run in runs]), digits=2)
        what = f"wide {size} {first.molecules.dataset.unit}".rstrip() if regression else f"of {size} classes"
        kind = "intervals" if regression else "sets"
        lines.append(f"{100 * own.confidence:g} % {kind} hold {share} % of {part}, {what}")
    return lines


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _cell(mean: float | None, sd: float | None, digits: int = 3) -> str:
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"
