"""Report: reads the runs in folders of results, and writes one HTML page about them."""

import dataclasses
import itertools
import shlex
from pathlib import Path
from typing import Any

from kflm2.config.base import StageConfig, to_arguments, to_json
from kflm2.config.pipelines import PIPELINES
from kflm2.config.report import ReportConfig
from kflm2.config.table import TableConfig
from kflm2.config.train import TrainConfig
from kflm2.errors import DataError
from kflm2.files import read_json, write_text
from kflm2.metrics.scores import SMALLER_IS_BETTER, summarize
from kflm2.progress import Progress
from kflm2.results import methods, schema
from kflm2.results.saved_runs import SavedRun, split_kinds
from kflm2.stages.report import page
from kflm2.stages.report.collection import SavedDataset, SavedMethod, comparable

_DEPTH = 2
"""Maximum depth of methods in a folder of results: it may contain datasets, which contain methods with runs."""
_NOT_SHOWN = ("seed", "runs", "save", "again", "device", "dataset", "csv", "development", "search")
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
    datasets, left_out = collect(config.results)
    names = distinct_names(datasets)
    method_count = sum(len(dataset.methods) for dataset in datasets)
    with Progress(total=method_count, desc="report", unit="method") as bar:
        pages = [
            page.data(dataset, name, len(datasets), bar.update) for dataset, name in zip(datasets, names, strict=True)
        ]
    text = page.html(pages, left_out)
    write_text(config.out, text)
    for folder, why in left_out.items():
        print(f"left out  {folder}: {why}")
    run_count = sum(len(method.runs) for dataset in datasets for method in dataset.methods)
    print(f"{', '.join(names)}: {_count(run_count, 'run')} of {_count(method_count, 'method')}")
    print(f"report    {config.out} ({len(text.encode()) / 1e6:.1f} MB)")
    return config.out


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def collect(results: tuple[str, ...]) -> tuple[list[SavedDataset], dict[str, str]]:
    """Read the runs in folders of results.

    Args:
        results: [NAME=]FOLDER; a folder that is given twice, or is in another one, counts once.

    Returns:
        One entry per dataset, in the order of the folders; tables with different content or targets are different
        datasets. And the runs that are left out: folder -> reason.

    Raises:
        DataError: a folder without runs that can be read, two methods with the same name.
    """
    collected: dict[tuple[Path, str], SavedMethod] = {}
    left_out: dict[str, str] = {}
    for argument in results:
        for name, folder, runs in _method_folders(argument, left_out):
            for split in split_kinds(runs):
                # a given name replaces the folder's name
                if (folder, split) not in collected or name is not None:
                    own = _of_one_method([run for run in runs if run.split_kind == split], left_out)
                    collected[folder, split] = _method(name or folder.name, folder, own, split)
    by_dataset: dict[str, list[SavedMethod]] = {}
    for method in collected.values():
        by_dataset.setdefault(repr(method.first.result.dataset), []).append(method)
    return [_dataset(entries, left_out) for entries in by_dataset.values()], left_out


def _readable(folder: Path, left_out: dict[str, str]) -> list[SavedRun]:
    """The runs in a method's folder; those with a damaged file are added to left_out."""
    runs = []
    for path in sorted(folder.glob(f"*/{schema.FILE}")):
        try:
            if schema.is_run_result(path.parent):
                runs.append(SavedRun(path.parent, schema.read_run_result(path.parent)))
                _ = runs[-1].y_true, runs[-1].y_pred
        except (DataError, ValueError) as error:
            runs = [run for run in runs if run.folder != path.parent]
            left_out[_short(path.parent)] = str(error).replace(f"{path.parent}/", "")
    return runs


def _of_one_method(runs: list[SavedRun], left_out: dict[str, str]) -> list[SavedRun]:
    """Those of a method's runs that have the same settings and data; the others are added to left_out.

    Of several such groups it is the one with most runs, and of equal ones the one that was written last.
    """
    groups: list[list[SavedRun]] = []
    for run in runs:
        fits = (group for group in groups if methods.identity(group[0].result) == methods.identity(run.result))
        if (group := next(fits, None)) is None:
            groups.append(group := [])
        group.append(run)

    def written(group: list[SavedRun]) -> float:
        return max((run.folder / schema.FILE).stat().st_mtime for run in group)

    chosen = max(groups, key=lambda group: (len(group), written(group)))
    for run in runs:
        if run not in chosen:
            differ = methods.differences(methods.identity(run.result), methods.identity(chosen[0].result))
            differ = f"other settings or data than the {_count(len(chosen), 'run')} shown: {differ}"
            left_out[_short(run.folder)] = differ
    return chosen


def _short(folder: Path) -> str:
    """A run's folder with those of its dataset and method, as they are named in a folder of results."""
    return "/".join(folder.parts[-3:])


def distinct_names(datasets: list[SavedDataset]) -> list[str]:
    """Names of datasets; equal ones are told apart by where the table comes from, its targets, or its SHA-256."""
    own = [dataset.record.name for dataset in datasets]
    names = list(own)
    for number in (1, 2, 3):
        repeated = {name for name in names if names.count(name) > 1}
        for index, dataset in enumerate(datasets):
            record = dataset.record
            if names[index] in repeated:
                words = (dataset.source, ", ".join(record.targets), record.sha256[:8])[:number]
                names[index] = f"{own[index]} ({'; '.join(words)})"
    return names


def _method_folders(argument: str, left_out: dict[str, str]) -> list[tuple[str | None, Path, list[SavedRun]]]:
    """Name, if one is given, folder and runs of each method in [NAME=]FOLDER, at most two levels below it."""
    name, top = methods.split_name(argument)
    if not top.is_dir():
        raise DataError(f"results {top}: no such folder")
    level = [top.resolve()]
    for _ in range(_DEPTH + 1):
        if with_runs := {folder: runs for folder in level if (runs := _readable(folder, left_out))}:
            if name is not None and list(with_runs) != [top.resolve()]:
                raise DataError(
                    f"results {top} holds a folder for each of {len(with_runs)} methods, not one named {name}"
                )
            return [(name, folder, runs) for folder, runs in with_runs.items()]
        level = [path for folder in level for path in sorted(folder.iterdir()) if path.is_dir()]
    damaged = next((f"; {folder}: {why}" for folder, why in left_out.items()), "")
    raise DataError(f"results {top}: no result.json of a run of stage 2 in it, nor in the folders in it{damaged}")


def _method(name: str, folder: Path, runs: list[SavedRun], split: str) -> SavedMethod:
    checked = methods.read(name, folder, runs, split)
    saved = [fold.run for fold in checked.folds.values() if fold.run is not None]
    tested = {seed: fold.tested for seed, fold in checked.folds.items()}
    result = saved[0].result
    if result.baseline:
        # a baseline is run on the splits of a model's runs
        options = ["--baselines", result.model]
        if result.model.startswith("chemprop"):
            options += ["--chemprop", "PROGRAM"]
        command = ["kflm2", "compare", str(folder.parent), "--split", "scaffold", "--practical", "NUMBER", *options]
        return SavedMethod(name, split, saved, "", shlex.join(command), tested)
    defaults = to_json(TrainConfig.of(result.model).of_task(saved[0].task)) if result.model in PIPELINES else {}
    changed = _changed_settings(result.config, TrainConfig(), defaults)
    hidden = (*_NOT_SHOWN, "model", "split", "out", "name")
    shown = {key: value for key, value in changed.items() if key not in hidden}
    changed.pop("split_column", None)  # it cannot be used with --split
    on_scaffolds = _command("train", result.config, {**changed, "model": result.model, "split": "scaffold"})
    return SavedMethod(name, split, saved, shlex.join(_arguments(shown)), on_scaffolds, tested)


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


def _is_of_others(audit: dict[str, Any], entries: list[SavedMethod]) -> bool:
    """Whether an audit is of another table or split than all runs; one that does not say so is of theirs."""
    results = [run.result for method in entries for run in method.runs]
    for name, digests in (
        ("dataset", {result.dataset.sha256 for result in results}),
        ("split", {result.split.sha256 for result in results}),
    ):
        found = audit.get(name)
        if isinstance(found, dict) and found.get("sha256", "") not in {"", *digests}:
            return True
    return False


def _rank(method: SavedMethod) -> tuple[bool, float]:
    """Key that puts the method with the best mean on test first, and one without a metric last."""
    metric = method.first.result.dataset.primary_metric
    mean, _ = summarize(method.values("test", metric))
    return mean is None, (mean or 0.0) * (1 if metric in SMALLER_IS_BETTER else -1)


def _dataset(entries: list[SavedMethod], left_out: dict[str, str]) -> SavedDataset:
    entries.sort(key=lambda method: (method.split, method.name))
    for method, following in itertools.pairwise(entries):
        if (method.name, method.split) == (following.name, following.split):
            raise DataError(
                f"two methods of {method.first.result.dataset.name} are named {method.name}; name them by NAME=FOLDER"
            )
    # the table is the same for all methods; the split is that of the method with most runs
    config = max(entries, key=lambda method: (not method.baseline, len(method.runs))).first.result.config
    paths = sorted({path for method in entries for path in method.first.folder.parents[1].glob("audit-*/audit.json")})
    audits = {}
    for path in paths:
        if _is_of_others(audit := read_json(path, "audit", DataError), entries):
            left_out[_short(path.parent)] = "an audit of another table, of a part of it, or of another split"
        else:
            audits[path.parent.name] = audit
    changed = _changed_settings(config, TableConfig(), to_json(TrainConfig()))
    # of a kind of split the group with most methods first, and of a group the best method
    groups = sorted(comparable(entries), key=lambda group: (group[0].split, -len(group)))
    entries = [method for group in groups for method in sorted(group, key=_rank)]
    return SavedDataset(entries, audits, _command("datasets audit", config, changed))
