"""Report: reads the runs in folders of results, and writes one HTML page about them."""

import dataclasses
import itertools
import shlex
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kflm2.config.base import StageConfig, to_arguments, to_json
from kflm2.config.pipelines import PIPELINES
from kflm2.config.report import ReportConfig
from kflm2.config.table import TableConfig
from kflm2.config.train import TrainConfig
from kflm2.errors import DataError
from kflm2.files import read_json, write_text
from kflm2.results import methods
from kflm2.results.saved_runs import SavedRun, runs_in, split_kinds
from kflm2.stages.report import page
from kflm2.stages.report.collection import SavedDataset, SavedMethod

_DEPTH = 2
"""Maximum depth of methods in a folder of results: it may contain datasets, which contain methods with runs."""
_NOT_SHOWN = ("seed", "runs", "save", "device", "dataset", "csv", "development", "search")
"""Settings that are not part of a method."""


def run(config: ReportConfig) -> Path:
    """Write the page.

    Args:
        config: checked.

    Returns:
        Path of the page.

    Raises:
        KFLM2Error: a folder without runs, or a file that cannot be read.
    """
    datasets = collect(config.results)
    method_count = sum(len(dataset.methods) for dataset in datasets)
    with tqdm(total=method_count, desc="report", unit="method") as bar:
        text = page.html([page.data(dataset, len(datasets), bar.update) for dataset in datasets])
    write_text(config.out, text)
    run_count = sum(len(method.runs) for dataset in datasets for method in dataset.methods)
    names = ", ".join(dataset.record.name for dataset in datasets)
    print(f"{names}: {_count(run_count, 'run')} of {_count(method_count, 'method')}")
    print(f"report    {config.out} ({len(text.encode()) / 1e6:.1f} MB)")
    return config.out


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def collect(results: tuple[str, ...]) -> list[SavedDataset]:
    """Read the runs in folders of results.

    Args:
        results: [NAME=]FOLDER; a folder that is given twice, or is in another one, counts once.

    Returns:
        One entry per dataset, in the order of the folders; tables with different content or targets are different
        datasets.

    Raises:
        DataError: a folder without runs, runs of a method with different settings, two methods with the same name.
    """
    collected: dict[tuple[Path, str], SavedMethod] = {}
    for argument in results:
        for name, folder in _method_folders(argument):
            runs = runs_in(folder)
            for split in split_kinds(runs):
                # a given name replaces the folder's name
                if (folder, split) not in collected or name is not None:
                    collected[folder, split] = _method(name or folder.name, folder, runs, split)
    by_dataset: dict[str, list[SavedMethod]] = {}
    for method in collected.values():
        by_dataset.setdefault(repr(method.first.result.dataset), []).append(method)
    return [_dataset(entries) for entries in by_dataset.values()]


def _method_folders(argument: str) -> list[tuple[str | None, Path]]:
    """Name, if one is given, and folder of each method in [NAME=]FOLDER, at most two levels below it."""
    name, top = methods.split_name(argument)
    if not top.is_dir():
        raise DataError(f"results {top}: no such folder")
    level = [top.resolve()]
    for _ in range(_DEPTH + 1):
        if with_runs := [folder for folder in level if runs_in(folder)]:
            if name is not None and with_runs != [top.resolve()]:
                raise DataError(
                    f"results {top} holds a folder for each of {len(with_runs)} methods, not one named {name}"
                )
            return [(name, folder) for folder in with_runs]
        level = [path for folder in level for path in sorted(folder.iterdir()) if path.is_dir()]
    raise DataError(f"results {top}: no result.json of a run of stage 2 in it, nor in the folders in it")


def _method(name: str, folder: Path, runs: list[SavedRun], split: str) -> SavedMethod:
    checked = methods.read(name, folder, runs, split)
    saved = [fold.run for fold in checked.folds.values() if fold.run is not None]
    result = saved[0].result
    if result.baseline:
        # a baseline is run on the splits of a model's runs
        options = ["--chemprop", "PROGRAM"] if result.model == "chemprop" else ["--baselines", result.model]
        command = ["kflm2", "compare", str(folder.parent), "--split", "scaffold", "--practical", "NUMBER", *options]
        return SavedMethod(name, split, saved, "", shlex.join(command))
    defaults = to_json(TrainConfig.of(result.model)) if result.model in PIPELINES else {}
    changed = _changed_settings(result.config, TrainConfig(), defaults)
    hidden = (*_NOT_SHOWN, "model", "split", "out", "name")
    shown = {key: value for key, value in changed.items() if key not in hidden}
    changed.pop("split_column", None)  # it cannot be used with --split
    on_scaffolds = _command("train", result.config, {**changed, "model": result.model, "split": "scaffold"})
    return SavedMethod(name, split, saved, shlex.join(_arguments(shown)), on_scaffolds)


def _changed_settings(config: dict[str, Any], stage: StageConfig, defaults: dict[str, Any]) -> dict[str, Any]:
    """A run's settings that differ from the defaults, without settings that no longer exist.

    Args:
        config: of result.json.
        stage: any config of the stage.
        defaults: as JSON values.
    """
    known = [stage.OLD_NAMES.get(field.name, field.name) for field in dataclasses.fields(stage)]
    if config.get("dataset"):
        given_by_registry = ("smiles_column", stage.OLD_NAMES["task"])
        known = [key for key in known if key not in given_by_registry]
    changed = {key: config[key] for key in known if config.get(key) is not None and config[key] != defaults.get(key)}
    # an ensemble of one model is the default
    return {key: value for key, value in changed.items() if not (key == "ensemble" and value == 1)}


def _command(stage: str, config: dict[str, Any], values: dict[str, Any]) -> str:
    """The command line of a stage for the table in the config of result.json."""
    arguments = _arguments({key: value for key, value in values.items() if key not in _NOT_SHOWN})
    return shlex.join(["kflm2", *stage.split(), str(config.get("dataset") or config.get("csv")), *arguments])


def _arguments(values: dict[str, Any]) -> list[str]:
    """Settings of result.json's config as arguments, under the options' present names."""
    names = {old: new for new, old in TrainConfig.OLD_NAMES.items()}
    return to_arguments({names.get(key, key): value for key, value in values.items()})


def _dataset(entries: list[SavedMethod]) -> SavedDataset:
    entries.sort(key=lambda method: (method.split, method.baseline, method.name))
    for method, following in itertools.pairwise(entries):
        if (method.name, method.split) == (following.name, following.split):
            raise DataError(
                f"two methods of {method.first.result.dataset.name} are named {method.name}; name them by NAME=FOLDER"
            )
    # the table is the same for all methods; the split is that of the method with most runs
    config = max(entries, key=lambda method: (not method.baseline, len(method.runs))).first.result.config
    paths = sorted({path for method in entries for path in method.first.folder.parents[1].glob("audit-*/audit.json")})
    audits = {path.parent.name: read_json(path, "audit", DataError) for path in paths}
    changed = _changed_settings(config, TableConfig(), to_json(TrainConfig()))
    return SavedDataset(entries, audits, _command("datasets audit", config, changed))
