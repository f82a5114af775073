"""The HTML page of a report: its data as JSON, and its text, which runs only its own script and needs no network."""

import base64
import datetime
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any

import numpy as np

from kflm2 import __version__
from kflm2.config.pipelines import PIPELINES
from kflm2.metrics.scores import IN_UNITS, SMALLER_IS_BETTER, summarize, target_metrics
from kflm2.results import schema
from kflm2.results.saved_runs import SavedRun
from kflm2.stages.report import plot_data, text
from kflm2.stages.report.collection import SavedDataset, SavedMethod
from kflm2.stages.report.molecule_svg import SCALE, SIZE, draw

_DRAWINGS = (150, 700, 2000)
"""Molecules that are drawn: minimum and maximum per dataset, and total of the page; others are shown as SMILES."""
_REJECTED = 5
"""Maximum rejected rows, and reasons, that are shown."""
_FILES = "static"
_SCRIPTS = ("elements.js", "card.js", "plots.js", "page.js")


class _Molecules:
    """Distinct SMILES of a dataset, with an index for each."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def __call__(self, smiles: Iterable[str]) -> list[int]:
        """Indices of SMILES; new ones are added."""
        return [self.index.setdefault(text, len(self.index)) for text in smiles]

    def data(self, indices: Iterable[int], most: int) -> dict[str, Any]:
        """All SMILES, and drawings of the first molecules.

        Args:
            indices: of the molecules to draw, most important first; repeats allowed.
            most: maximum number of drawings.
        """
        smiles = list(self.index)
        drawings = {i: draw(smiles[i]) for i in list(dict.fromkeys(indices))[:most]}
        # keys of JSON objects are strings
        return {
            "smiles": smiles,
            "size": SIZE,
            "scale": SCALE,
            "svg": {str(i): drawing for i, drawing in sorted(drawings.items()) if drawing},
        }


def data(
    dataset: SavedDataset,
    name: str | None = None,
    datasets: int = 1,
    after_method: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """The page's data of a dataset, as JSON values.

    Args:
        dataset: methods and runs.
        name: by which the dataset is told from others of the page; default its own.
        datasets: number of datasets on the page, which share its drawings.
        after_method: called after each method.
    """
    record = dataset.record
    molecules = _Molecules()
    methods = []
    for method in dataset.methods:
        methods.append(_method(method, dataset, molecules))
        after_method()
    first, why = text.first_shown(dataset)
    return {
        "name": name or record.name,
        "kind": record.task,
        "unit": record.unit or "",
        "targets": record.targets,
        "facts": _facts(dataset),
        "metrics": record.mean_metrics,
        "target_metrics": target_metrics(record.task, len(record.targets)),
        "main": record.primary_metric,
        "smaller": SMALLER_IS_BETTER,
        "in_units": IN_UNITS,
        "groups": _groups(dataset),
        "parts": dataset.parts,
        "first": first,
        "why": why,
        "methods": methods,
        "audits": [{"folder": name, "found": text.audit(audit)} for name, audit in dataset.audits.items()],
        "audit_command": dataset.audit_command,
        "rejected": _rejected(dataset),
        "molecules": molecules.data(_drawing_order([methods[first], *methods]), _most_drawings(datasets)),
    }


def _most_drawings(datasets: int) -> int:
    least, most, total = _DRAWINGS
    return min(most, max(least, total // datasets))


def _drawing_order(methods: list[dict[str, Any]]) -> Iterable[int]:
    """Indices of molecules in order of importance for the reader: worst predictions, test parts, maps, others."""
    for method in methods:
        yield from (row["mol"] for row in method["worst"][0])
    for method in methods:
        shown = method["shown"]
        yield from (mol for mol, part in zip(shown["mol"], shown["part"], strict=True) if part.startswith("test"))
    for method in methods:
        yield from (row["mol"] for rows in method["worst"] for row in rows)
    for method in methods:
        yield from method["map"]["mol"] if method["map"] else ()
    for method in methods:
        yield from method["shown"]["mol"]


def _groups(dataset: SavedDataset) -> list[dict[str, Any]]:
    """The tables of metrics: methods that can be compared, and how their molecules are split."""
    groups = []
    for group in dataset.groups:
        sizes = group[0].first.result.split.sizes
        groups.append(
            {
                "methods": [dataset.methods.index(method) for method in group],
                "title": f"{group[0].split} splits, {' / '.join(f'{size:,} {part}' for part, size in sizes.items())}",
            }
        )
    return groups


def _method(method: SavedMethod, dataset: SavedDataset, molecules: _Molecules) -> dict[str, Any]:
    targets = range(len(dataset.record.targets))
    classes = dataset.record.task == "classification"
    record = dataset.record
    means = {
        part: {name: summarize(method.values(part, name)) for name in record.mean_metrics} for part in dataset.parts
    }
    # of one target the mean is the target's
    target_means = [
        {
            part: {
                name: _round(summarize(method.values(part, name, target)))
                for name in target_metrics(record.task, len(record.targets))
            }
            for part in dataset.parts
        }
        for target in (record.targets if len(record.targets) > 1 else [])
    ]
    return {
        "name": method.name,
        "split": method.split,
        "baseline": method.baseline,
        "about": _about(method),
        "development": schema.notes([run.result for run in method.runs]),
        "runs": [_run(run) for run in method.runs],
        "reads": method.reads,
        "means": means,
        "target_means": target_means,
        "coverage": {"confidence": method.first.coverage.confidence, "now": method.first.coverage.recomputed},
        "promise": text.promise(method, dataset),
        "shown": _shown(method, dataset, molecules),
        "trend": [_round(plot_data.trend(method, dataset.similarity, k)) for k in targets],
        "worst": [
            [
                {"mol": molecules([row["smiles"]])[0], "row": int(row["row"]), "runs": int(row["runs"])}
                | {key: _round(row[key]) for key in ("true", "pred", "error", "near")}
                for row in plot_data.worst(method, dataset.similarity, k)
            ]
            for k in targets
        ],
        "history": _round(plot_data.histories(method), 4),
        "curves": [_round(plot_data.curves(method, k), 4) for k in targets] if classes else None,
        "reliability": [_round(plot_data.reliability(method, k), 4) for k in targets] if classes else None,
        "map": _map(method, molecules),
    }


def _run(run: SavedRun) -> dict[str, Any]:
    result = run.result
    return {
        "seed": result.seed,
        "metrics": result.metrics,
        "coverage": run.coverage.share,
        "best": result.best_epoch,
        "seconds": result.seconds.get("training"),
        "sizes": result.split.sizes,
    }


def _shown(method: SavedMethod, dataset: SavedDataset, molecules: _Molecules) -> dict[str, Any]:
    run = method.first
    table = plot_data.dots(run, dataset.similarity)
    position = table["position"].to_numpy()
    parts = sorted(run.parts.unique())
    return {
        "seed": run.seed,
        # labels of each target, of which there may be fewer than molecules
        "sizes": {part: (~np.isnan(run.y_true[run.parts == part])).sum(axis=0).tolist() for part in parts},
        "mol": molecules(table["smiles"]),
        "part": table["part"].tolist(),
        "row": table["row"].tolist(),
        "true": _round(run.y_true[position].T.tolist()),
        "pred": _round(run.y_pred[position].T.tolist()),
        "near": _round(table["similarity"].tolist(), 3),
    }


def _map(method: SavedMethod, molecules: _Molecules) -> dict[str, Any] | None:
    # of the first run with hidden states; older runs do not have the file
    run = next((run for run in method.runs if run.has_hidden), method.first)
    maps = plot_data.maps(run)
    if maps is None:
        return None
    position = np.array(maps.pop("position"))
    return maps | {
        "seed": run.seed,
        "of": len(run.table),
        "mol": molecules(run.table["smiles"].iloc[position]),
        "part": run.parts.iloc[position].tolist(),
        "row": run.table["row"].iloc[position].tolist(),
        "true": _round(run.y_true[position].T.tolist()),
        "pred": _round(run.y_pred[position].T.tolist()),
    }


def _about(method: SavedMethod) -> dict[str, str]:
    """Settings and provenance of a method, as a table for the page."""
    result = method.first.result
    llm, adapter, layers = "none", "none", ""
    if result.llm is not None:
        llm = f"{result.llm.name} ({result.llm.digest[:8]})"
        layers = ", ".join(map(str, result.llm.layers))
        if result.llm.adapter:
            adapter = f"{result.config.get('adapter', '')} ({result.llm.adapter[:8]})"
    seeds = [run.seed for run in method.runs]
    consecutive = seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2
    rows = {
        "pipeline": result.model,
        "what it is": result.about or (PIPELINES[result.model].about if result.model in PIPELINES else ""),
        "reads": method.reads,
        "split": method.split,
        "development": schema.notes([run.result for run in method.runs]),
        "seeds": f"{seeds[0]} to {seeds[-1]}" if consecutive else ", ".join(map(str, seeds)),
        "LLM": llm,
        "adapter": adapter,
        "layers": layers,
        "parameters": f"{result.parameters:,}" if result.parameters else "",
        "settings of its own": method.settings,
        "commit": (result.commit or "unknown")[:10] + ("+" if str(result.commit).endswith("+") else ""),
        "written": _dates([run.folder / schema.FILE for run in method.runs]),
    }
    return {key: value or "-" for key, value in rows.items()}


def _dates(paths: list[Any]) -> str:
    """First and last day (UTC) of the files' modification times, not today's date, which would change the page."""
    days = sorted(
        datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date().isoformat() for path in paths
    )
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _facts(dataset: SavedDataset) -> list[tuple[str, str]]:
    """Properties of the dataset and its runs; where runs differ, all values are listed."""
    record, runs = dataset.record, [run for method in dataset.methods for run in method.runs]
    counts = [run.result.rows for run in runs]
    rows = sorted({f"{count.read:,} read, {count.kept:,} kept, {count.rejected:,} rejected" for count in counts})
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.result.versions.items():
            versions.setdefault(name, set()).add(version)
    targets, paths = record.targets, [run.folder / schema.FILE for run in runs]
    shown = ", ".join(targets[:4]) + (f" and {len(targets) - 4} more" if len(targets) > 4 else "")
    return [
        *([("quantity", dataset.quantity)] if dataset.quantity else []),
        ("target" if len(targets) == 1 else f"{len(targets)} targets", shown),
        ("unit", record.unit or ("class 0 or 1" if record.task == "classification" else "-")),
        ("rows", "; ".join(rows)),
        ("file's SHA-256", record.sha256[:16]),
        ("splits", ", ".join(sorted({method.split for method in dataset.methods}))),
        ("runs", f"{_count(len(runs), 'run')} of {_count(len(dataset.methods), 'method')}"),
        ("written", _dates(paths)),
        ("versions", ", ".join(f"{name} {' or '.join(sorted(numbers))}" for name, numbers in versions.items())),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _rejected(dataset: SavedDataset) -> dict[str, Any]:
    # pipelines with an LLM may reject more rows than others: take the longest table
    table = max((method.first.rejected() for method in dataset.methods), key=len)
    reasons = table["reason"].value_counts().rename_axis("reason").reset_index(name="n")
    reasons = reasons.sort_values(["n", "reason"], ascending=[False, True])
    return {
        "count": len(table),
        "reasons": reasons[["reason", "n"]].head(_REJECTED).to_numpy().tolist(),
        "kinds": len(reasons),
        "rows": table.head(_REJECTED).to_numpy().tolist(),
    }


def _round(value: Any, digits: int = 5) -> Any:
    """JSON values with floats rounded to significant digits; NaN and infinity become None."""
    if isinstance(value, dict):
        return {key: _round(entry, digits) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_round(entry, digits) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def html(datasets: list[dict[str, Any]], left_out: dict[str, str] | None = None) -> str:
    """The page's text.

    Args:
        datasets: data of each dataset; see data.
        left_out: folder of a run that is not on the page -> reason.
    """
    values = {"version": __version__, "datasets": datasets, "left_out": list((left_out or {}).items())}
    files = resources.files(__package__).joinpath(_FILES)
    script = "\n".join(files.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = files.joinpath("page.html").read_text(encoding="utf-8")
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    # the data last, so that a marker within the data is not replaced
    for marker, content in (
        ("{{hash}}", digest),
        ("{{style}}", style),
        ("{{script}}", script),
        ("{{data}}", escaped(values)),
    ):
        page = page.replace(marker, content, 1)
    return page


def escaped(value: Any) -> str:
    """JSON that is safe in a script element: characters that start a tag or an entity, or end a line, are escaped."""
    encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    return encoded
