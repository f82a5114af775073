"""One HTML page about runs: its data, and its text, which runs nothing but its own script and asks no network."""

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
from kflm2.metrics.scores import METRIC_NAMES, PRIMARY_METRIC, SMALLER_IS_BETTER, summarize
from kflm2.results.saved_runs import SavedDataset, SavedMethod
from kflm2.stages.report import plot_data as page_figures
from kflm2.stages.report import text as page_words
from kflm2.stages.report.molecule_svg import SCALE, SIZE, draw

_DRAWINGS = (150, 700, 2000)
"""Molecules that are drawn: of a dataset at least and at most, and of all the page's; the others are SMILES."""
_REJECTED = 5
_FILES = "static"
_SCRIPTS = ("base.js", "plots.js", "page.js")


class _Molecules:
    """Distinct SMILES of a dataset, numbered."""

    def __init__(self) -> None:
        self.number: dict[str, int] = {}

    def __call__(self, smiles: Iterable[str]) -> list[int]:
        return [self.number.setdefault(text, len(self.number)) for text in smiles]

    def data(self, wanted: Iterable[int], most: int) -> dict[str, Any]:
        """The SMILES, and drawings of those most wanted."""
        smiles = list(self.number)
        drawings = {i: draw(smiles[i]) for i in list(dict.fromkeys(wanted))[:most]}
        # strings as keys, as JSON has them
        return {
            "smiles": smiles,
            "size": SIZE,
            "scale": SCALE,
            "svg": {str(i): own for i, own in sorted(drawings.items()) if own},
        }


def data(dataset: SavedDataset, datasets: int = 1, after_method: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """What the page knows of a dataset, as JSON values.

    Args:
        dataset: its runs.
        datasets: how many share the page, and so the drawings it bears.
        after_method: called after each method.
    """
    about, kind = dataset.about, dataset.about["kind"]
    molecules = _Molecules()
    methods = []
    for method in dataset.methods:
        methods.append(_method(method, dataset, molecules))
        after_method()
    first, why = page_words.first_shown(dataset)
    return {
        "name": about["name"],
        "kind": kind,
        "unit": about["unit"] or "",
        "targets": about["targets"],
        "facts": _facts(dataset),
        "figures": METRIC_NAMES[kind],
        "main": PRIMARY_METRIC[kind],
        "smaller": SMALLER_IS_BETTER,
        "parts": dataset.parts,
        "first": first,
        "why": why,
        "methods": methods,
        "audits": [{"folder": name, "found": page_words.audit(found)} for name, found in dataset.audits.items()],
        "audit_command": dataset.audit_command,
        "rejected": _rejected(dataset),
        "molecules": molecules.data(_wanted([methods[first], *methods]), _drawings(datasets)),
    }


def _drawings(datasets: int) -> int:
    least, most, whole = _DRAWINGS
    return min(most, max(least, whole // datasets))


def _wanted(methods: list[dict[str, Any]]) -> Iterable[int]:
    """Molecules in the order in which a reader wants them drawn."""
    for method in methods:
        yield from (one["mol"] for one in method["worst"][0])
    for method in methods:
        shown = method["shown"]
        yield from (mol for mol, part in zip(shown["mol"], shown["part"], strict=True) if part.startswith("test"))
    for method in methods:
        yield from (one["mol"] for own in method["worst"] for one in own)
    for method in methods:
        yield from method["map"]["mol"] if method["map"] else ()
    for method in methods:
        yield from method["shown"]["mol"]


def _method(method: SavedMethod, dataset: SavedDataset, molecules: _Molecules) -> dict[str, Any]:
    targets = range(len(dataset.about["targets"]))
    classes = dataset.about["kind"] == "classification"
    means = {
        part: {name: summarize(method.values(part, name)) for name in METRIC_NAMES[dataset.about["kind"]]}
        for part in dataset.parts
    }
    return {
        "name": method.name,
        "split": method.split,
        "baseline": method.baseline,
        "about": _about(method),
        "runs": [_run(run.made, run.coverage) for run in method.runs],
        "means": means,
        "coverage": {"confidence": method.first.coverage["confidence"], "now": method.first.coverage["now"]},
        "promise": page_words.promise(method, dataset),
        "shown": _shown(method, dataset, molecules),
        "trend": [_round(page_figures.trend(method, dataset.near, k)) for k in targets],
        "worst": [
            [
                {"mol": molecules([one["smiles"]])[0], "row": int(one["row"]), "runs": int(one["runs"])}
                | {key: _round(one[key]) for key in ("true", "pred", "error", "near")}
                for one in page_figures.worst(method, dataset.near, k)
            ]
            for k in targets
        ],
        "history": _round(page_figures.histories(method), 4),
        "curves": [_round(page_figures.curves(method, k), 4) for k in targets] if classes else None,
        "reliability": [_round(page_figures.reliability(method, k), 4) for k in targets] if classes else None,
        "map": _map(method, molecules),
    }


def _run(made: dict[str, Any], coverage: dict[str, Any]) -> dict[str, Any]:
    return {
        "seed": made["seed"],
        "metrics": made["metrics"],
        "coverage": coverage["share"],
        "best": made.get("best_epoch", []),
        "seconds": made.get("seconds", {}).get("training"),
        "sizes": made["split"]["sizes"],
    }


def _shown(method: SavedMethod, dataset: SavedDataset, molecules: _Molecules) -> dict[str, Any]:
    run = method.first
    table = page_figures.dots(run, dataset.near)
    place = table["place"].to_numpy()
    return {
        "seed": run.seed,
        "sizes": {part: int(count) for part, count in run.table["part"].value_counts(sort=False).sort_index().items()},
        "mol": molecules(table["smiles"]),
        "part": table["part"].tolist(),
        "row": table["row"].tolist(),
        "true": _round(run.y_true[place].T.tolist()),
        "pred": _round(run.y_pred[place].T.tolist()),
        "near": _round(table["similarity"].tolist(), 3),
    }


def _map(method: SavedMethod, molecules: _Molecules) -> dict[str, Any] | None:
    # the first run's, unless that is older than the file
    run = next((own for own in method.runs if own.has_hidden), method.first)
    found = page_figures.maps(run)
    if found is None:
        return None
    place = np.array(found.pop("place"))
    return found | {
        "seed": run.seed,
        "of": len(run.table),
        "mol": molecules(run.table["smiles"].iloc[place]),
        "part": run.table["part"].iloc[place].tolist(),
        "row": run.table["row"].iloc[place].tolist(),
        "true": _round(run.y_true[place].T.tolist()),
        "pred": _round(run.y_pred[place].T.tolist()),
    }


def _about(method: SavedMethod) -> dict[str, str]:
    """What was run, for people."""
    made = method.first.made
    llm, config = made.get("llm"), made["config"]
    seeds = [run.seed for run in method.runs]
    whole = seeds == list(range(seeds[0], seeds[-1] + 1)) and len(seeds) > 2
    words = {
        "pipeline": made["model"],
        "what it is": made.get("about") or (PIPELINES[made["model"]].about if made["model"] in PIPELINES else ""),
        "split": method.split,
        "seeds": f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds)),
        "LLM": f"{llm['name']} ({llm['digest'][:8]})" if llm else "none",
        "adapter": (f"{config.get('adapter', '')} ({llm['adapter'][:8]})" if llm.get("adapter") else "none")
        if llm
        else "none",
        "layers": ", ".join(map(str, llm.get("layers") or [])) if llm else "",
        "parameters": f"{made['parameters']:,}" if made.get("parameters") else "",
        "settings of its own": method.config,
        "commit": (made.get("commit") or "unknown")[:10] + ("+" if str(made.get("commit")).endswith("+") else ""),
        "written": _dates([run.folder / "result.json" for run in method.runs]),
    }
    return {key: value or "-" for key, value in words.items()}


def _dates(paths: list[Any]) -> str:
    """Days, in UTC, on which files were written: of the files and not of now, so that a page made again is the same."""
    days = sorted(
        datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC).date().isoformat() for path in paths
    )
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _facts(dataset: SavedDataset) -> list[tuple[str, str]]:
    """What the methods have in common, and where they differ what each has."""
    about, runs = dataset.about, [run.made for method in dataset.methods for run in method.runs]
    targets = about["targets"]
    counts = [made["rows"] for made in runs]
    rows = sorted({f"{own['read']:,} read, {own['kept']:,} kept, {own['rejected']:,} rejected" for own in counts})
    versions: dict[str, set[str]] = {}
    for made in runs:
        for name, version in made.get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    paths = [run.folder / "result.json" for method in dataset.methods for run in method.runs]
    shown = ", ".join(targets[:4]) + (f" and {len(targets) - 4} more" if len(targets) > 4 else "")
    return [
        *([("quantity", dataset.quantity)] if dataset.quantity else []),
        ("target" if len(targets) == 1 else f"{len(targets)} targets", shown),
        ("unit", about["unit"] or ("class 0 or 1" if about["kind"] == "classification" else "-")),
        ("rows", "; ".join(rows)),
        ("file's SHA-256", about["sha256"][:16]),
        ("splits", ", ".join(sorted({method.split for method in dataset.methods}))),
        ("runs", f"{_many(len(runs), 'run')} of {_many(len(dataset.methods), 'method')}"),
        ("written", _dates(paths)),
        ("versions", ", ".join(f"{name} {' or '.join(sorted(own))}" for name, own in versions.items())),
    ]


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _rejected(dataset: SavedDataset) -> dict[str, Any]:
    # a pipeline that reads an LLM may reject more than another
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
    """JSON values with as many digits as a picture shows; None for what is no number."""
    if isinstance(value, dict):
        return {key: _round(own, digits) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_round(own, digits) for own in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def html(datasets: list[dict[str, Any]]) -> str:
    """The page; see data."""
    files = resources.files(__package__).joinpath(_FILES)
    script = "\n".join(files.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = files.joinpath("page.html").read_text(encoding="utf-8")
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    # the data last: nothing that is in it is looked at again
    for place, text in (
        ("{{hash}}", digest),
        ("{{style}}", style),
        ("{{script}}", script),
        ("{{data}}", escaped({"version": __version__, "datasets": datasets})),
    ):
        page = page.replace(place, text, 1)
    return page


def escaped(value: Any) -> str:
    """JSON that can stand in a script element: no character of it begins a tag or an entity, or ends a line."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
