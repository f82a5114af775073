"""A report: folders of results found, read, and put on one page."""

import dataclasses
import itertools
import shlex
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kflm2.cli.command import words
from kflm2.config.pipelines import PIPELINES
from kflm2.config.report import ReportConfig
from kflm2.config.table import TableConfig
from kflm2.config.train import TrainConfig
from kflm2.errors import DataError
from kflm2.files import read_json, write_text
from kflm2.results import methods
from kflm2.results.runs import plain
from kflm2.results.saved_runs import SavedDataset, SavedMethod, SavedRun
from kflm2.stages.report import page

_DEPTH = 2
"""A folder of results may hold datasets, which hold methods, which hold runs."""


def run(config: ReportConfig) -> Path:
    """Write the page.

    Args:
        config: checked.

    Returns:
        Its path.

    Raises:
        KFLM2Error: no run in a folder, or a file that cannot be read.
    """
    datasets = gather(config.results)
    count = sum(len(dataset.methods) for dataset in datasets)
    with tqdm(total=count, desc="report", unit="method") as bar:
        text = page.html([page.data(dataset, len(datasets), bar.update) for dataset in datasets])
    write_text(config.out, text)
    runs = sum(len(method.runs) for dataset in datasets for method in dataset.methods)
    names = ", ".join(dataset.about["name"] for dataset in datasets)
    print(f"{names}: {_many(runs, 'run')} of {_many(count, 'method')}")
    print(f"report    {config.out} ({len(text.encode()) / 1e6:.1f} MB)")
    return config.out


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def gather(results: tuple[str, ...]) -> list[SavedDataset]:
    """Read the runs in folders of results.

    Args:
        results: [NAME=]FOLDER; a folder that is given twice, or lies in another one, counts once.

    Returns:
        One a dataset, in the order in which they were found; tables of another content, or other targets, are others.

    Raises:
        DataError: no run in a folder, runs of a method with different settings, two methods of one name.
    """
    found: dict[tuple[Path, str], SavedMethod] = {}
    for word in results:
        for name, folder in _folders(word):
            runs = methods.runs_in(folder)
            for kind in methods.kinds_of(runs):
                # a name that was given goes before the folder's
                if (folder, kind) not in found or name is not None:
                    found[folder, kind] = _method(name or folder.name, folder, runs, kind)
    grouped: dict[str, list[SavedMethod]] = {}
    for method in found.values():
        grouped.setdefault(repr(sorted(method.first.made["dataset"].items())), []).append(method)
    return [_dataset(own) for own in grouped.values()]


def _folders(word: str) -> list[tuple[str | None, Path]]:
    """Folders of methods: the one named, or those in it, or those in these."""
    name, top = methods.named(word)
    if not top.is_dir():
        raise DataError(f"results {top}: no such folder")
    level = [top.resolve()]
    for _ in range(_DEPTH + 1):
        if here := [folder for folder in level if methods.runs_in(folder)]:
            if name is not None and here != [top.resolve()]:
                raise DataError(f"results {top} holds a folder for each of {len(here)} methods, not one named {name}")
            return [(name, folder) for folder in here]
        level = [below for folder in level for below in sorted(folder.iterdir()) if below.is_dir()]
    raise DataError(f"results {top}: no result.json of a run of stage 2 in it, nor in the folders in it")


def _method(name: str, folder: Path, runs: dict[Path, dict[str, Any]], kind: str) -> SavedMethod:
    checked = methods.read(name, folder, runs, kind)
    own = [SavedRun(fold.folder, runs[fold.folder]) for fold in checked.folds.values() if fold.folder is not None]
    made = own[0].made
    if made.get("baseline"):
        # it is run on the splits of a model's runs
        which = ["--chemprop", "PROGRAM"] if made["model"] == "chemprop" else ["--baselines", made["model"]]
        beside = ["kflm2", "compare", str(folder.parent), "--split", "scaffold", "--practical", "NUMBER", *which]
        return SavedMethod(name, kind, own, "", shlex.join(beside))
    config = made["config"]
    changed = _changed(config, TrainConfig, plain(TrainConfig.of(made["model"])) if made["model"] in PIPELINES else {})
    shown = {key: value for key, value in changed.items() if key not in (*_NOT_SAID, "model", "split", "out", "name")}
    changed.pop("split_column", None)  # it would be a split of its own
    again = _again("train", config, {**changed, "model": made["model"], "split": "scaffold"})
    return SavedMethod(name, kind, own, shlex.join(words(shown)), again)


_NOT_SAID = ("seed", "runs", "save", "device", "dataset", "csv")


def _changed(config: dict[str, Any], kind: type, defaults: dict[str, Any]) -> dict[str, Any]:
    """A run's settings that are not the defaults, of those that there are today."""
    known = [field.name for field in dataclasses.fields(kind)]
    if config.get("dataset"):
        known = [key for key in known if key not in ("smiles_column", "kind")]  # the registry says
    out = {key: config[key] for key in known if config.get(key) is not None and config[key] != defaults.get(key)}
    # what is filled in where nothing is said
    return {key: value for key, value in out.items() if not (key == "ensemble" and value == 1)}


def _again(stage: str, config: dict[str, Any], values: dict[str, Any]) -> str:
    """A command on the same table."""
    said = words({key: value for key, value in values.items() if key not in _NOT_SAID})
    return shlex.join(["kflm2", *stage.split(), str(config.get("dataset") or config.get("csv")), *said])


def _dataset(own: list[SavedMethod]) -> SavedDataset:
    own.sort(key=lambda method: (method.split, method.baseline, method.name))
    for one, other in itertools.pairwise(own):
        if (one.name, one.split) == (other.name, other.split):
            about = one.first.made["dataset"]["name"]
            raise DataError(f"two methods of {about} are named {one.name}; name them by NAME=FOLDER")
    # the data are those of all methods, and the split that of most runs
    config = max(own, key=lambda method: (not method.baseline, len(method.runs))).first.made["config"]
    paths = sorted({path for method in own for path in method.first.folder.parents[1].glob("audit-*/audit.json")})
    audits = {path.parent.name: read_json(path, "audit", DataError) for path in paths}
    changed = _changed(config, TableConfig, plain(TrainConfig()))
    return SavedDataset(own, audits, _again("datasets audit", config, changed))
