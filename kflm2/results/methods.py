"""Methods whose metrics can be compared: folders of results, checked and read fold by fold."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kflm2.data.columns import SMILES
from kflm2.data.parts import PARTS
from kflm2.errors import DataError, SettingError
from kflm2.files import sha256_texts
from kflm2.metrics.scores import Metrics
from kflm2.metrics.statistics import Design
from kflm2.results.provenance import method_settings
from kflm2.results.saved_runs import SavedRun, runs_in, split_kinds
from kflm2.results.schema import DatasetRecord, LLMRecord, OriginRecord, RunResult, notes

_SHOWN = 3
"""Differences that are told."""
_LONGEST = 40
"""Characters of a value that are told."""


@dataclass(frozen=True)
class Fold:
    """One run: one split and one seed."""

    parts: str
    """Digest of which row is in which part."""
    molecules: str
    """Digest of rows, SMILES as read, and labels."""
    tested: frozenset[str]
    """Rows of the test part."""
    sizes: dict[str, int]
    metrics: Metrics
    """Of the test part."""
    run: SavedRun | None
    """None for predictions of another program."""


@dataclass(frozen=True)
class Method:
    """What was measured of one way to predict one dataset."""

    name: str
    record: DatasetRecord
    """What it was measured on."""
    split: str
    folds: dict[int, Fold]
    """Seed -> run."""
    baseline: bool = False
    """Run by a comparison, and not by a person."""

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.record.name

    @property
    def targets(self) -> list[str]:
        """(K,) names."""
        return self.record.targets

    @property
    def development(self) -> str:
        """A sentence on runs whose test molecules a search or an earlier model saw; '' where there are none."""
        runs = [fold.run for fold in self.folds.values() if fold.run is not None]
        return notes([run.result for run in runs])

    def design(self, seeds: Collection[int]) -> Design:
        """What the runs of some seeds have in common."""
        folds = [self.folds[seed] for seed in seeds]
        molecules = max(sum(fold.sizes[part] for part in PARTS) for fold in folds)
        return Design.of([fold.tested for fold in folds], [fold.sizes["train"] for fold in folds], molecules)


def split_name(word: str) -> tuple[str | None, Path]:
    """Name and path of NAME=PATH, or of PATH alone."""
    name, equals, path = word.partition("=")
    return (name, Path(path)) if equals and not Path(word).exists() else (None, Path(word))


def find(word: str, split: str | None, seeds: Collection[int] | None = None) -> list[Method]:
    """The methods in a folder: a model's, or a dataset's with a folder a model.

    Args:
        word: FOLDER or NAME=FOLDER.
        split: the kind that is wanted; None takes the only one there is.
        seeds: of the runs that are wanted; None takes all.

    Raises:
        DataError: no complete run in it, runs of several kinds of split, or runs of different settings.
    """
    name, folder = split_name(word)
    if not folder.is_dir():
        raise DataError(f"results {folder}: no such folder")
    folder = folder.resolve()
    if runs := runs_in(folder, seeds):
        return [read(name or folder.name, folder, runs, split)]
    below = {path: runs for path in sorted(folder.iterdir()) if path.is_dir() and (runs := runs_in(path, seeds))}
    if not below:
        raise DataError(f"results {folder}: no result.json of a run in it, nor in the folders in it")
    if name is not None:
        raise DataError(f"results {folder} holds a folder for each of {len(below)} methods, not one named {name}")
    wanted = {path: runs for path, runs in below.items() if split is None or split in split_kinds(runs)}
    for path in below.keys() - wanted.keys():
        print(f"left out  {path}: no run of {split}", flush=True)
    return [read(path.name, path, runs, split) for path, runs in wanted.items()]


def read(name: str, folder: Path, runs: list[SavedRun], split: str | None) -> Method:
    """A method from its runs of one kind of split; see find."""
    kinds = split_kinds(runs)
    if split is None and len(kinds) > 1:
        raise DataError(f"results {folder} holds runs of {', '.join(kinds)}; choose one with --split")
    split = split or kinds[0]
    if split not in kinds:
        raise DataError(f"results {folder} holds no run of {split}, but of {', '.join(kinds)}")
    runs = [run for run in runs if run.split_kind == split]
    first = runs[0]
    for run in runs:
        if run.result.dataset != first.result.dataset:
            raise DataError(f"{run.folder} was measured on another {first.result.dataset.name} than {first.folder}")
        if differ := differences(identity(run.result), identity(first.result)):
            raise DataError(f"{run.folder} and {first.folder} are runs of different settings: {differ}")
    folds = {run.seed: read_fold(run) for run in runs}
    return Method(name, first.result.dataset, split, dict(sorted(folds.items())), first.result.baseline)


def identity(result: RunResult) -> dict[str, Any]:
    """What must be the same for runs to be of one method: data, settings and LLM; see differences."""
    return {
        **settings_and_data(result.dataset, result.model, result.llm, result.config, result.origin),
        **({"about": result.about} if result.about else {}),
    }


def settings_and_data(
    dataset: DatasetRecord, model: str, llm: LLMRecord | None, config: dict[str, Any], origin: OriginRecord | None
) -> dict[str, Any]:
    """The identity of runs that are yet to be made; config as JSON values."""
    data = {
        "table": dataset.name,
        "SHA-256 of the table": dataset.sha256[:16],
        "targets": dataset.targets,
        "unit": dataset.unit,
        "task": dataset.task,
    }
    if config.get("dataset") is None:  # a table of the user may have several
        data["column of SMILES"] = config.get("smiles_column") or SMILES
    settings = method_settings(config)
    for name in ("target_columns", "kind", "smiles_column"):
        settings.pop(name, None)  # in the data, or in the split; older results have them only where they were given
    made = {"model": model, "LLM": None if llm is None else dataclasses.asdict(llm)}
    if origin is not None:
        made["model that it goes on from"] = origin.sha256[:16]
    return {**data, **settings, **made}


def differences(first: dict[str, Any], second: dict[str, Any]) -> str:
    """In which entries two identities differ, in words, as `epochs 1, not 2`; the first few; '' if they are equal."""
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    shown = [f"{name} {_words(first.get(name))}, not {_words(second.get(name))}" for name in names[:_SHOWN]]
    more = len(names) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def refuse_others(folder: Path, others: dict[Path, str], elsewhere: str) -> None:
    """Refuse to replace runs of other settings or data.

    Args:
        folder: that holds them.
        others: folder of each -> in what it differs; none is no error.
        elsewhere: option that writes to another folder.

    Raises:
        SettingError: there are such runs.
    """
    if others:
        count = f"{len(others)} run{'' if len(others) == 1 else 's'}"
        raise SettingError(
            f"{folder} holds {count} of other settings or data ({next(iter(others.values()))}): {elsewhere} writes to"
            f" another folder, --again replaces {'it' if len(others) == 1 else 'them'}"
        )


def _words(value: Any) -> str:
    if isinstance(value, dict):  # an LLM
        return " ".join(str(part)[:_LONGEST] for part in value.values() if isinstance(part, str))
    if isinstance(value, list):
        return " + ".join(map(str, value))[:_LONGEST] or "none"
    return "none" if value is None else str(value)[:_LONGEST]


def read_fold(run: SavedRun) -> Fold:
    """What a comparison needs of a run.

    Raises:
        DataError: the predictions cannot be read.
    """
    try:
        table = pd.read_csv(run.folder / "predictions.csv", dtype=str, keep_default_na=False)
        parts, labels = table[["row", "part"]], [name for name in table if name.startswith("y_true_")]
        tested = table.loc[table["part"].str.startswith("test"), "row"]
        molecules = table[["row", "smiles", *labels]]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{run.folder}: predictions.csv cannot be read: {error}") from None
    digests = [sha256_texts(cells.to_numpy().ravel().tolist()) for cells in (parts, molecules)]
    result = run.result
    return Fold(digests[0], digests[1], frozenset(tested), result.split.sizes, result.metrics.get("test", {}), run)
