"""KFLM2 in a notebook: train on a table, load a saved model, predict.

import kflm2
result = kflm2.train(table, targets="expt")
result.save("model")
kflm2.load("model").predict(["CCO", "c1ccccc1"])
"""

import base64
import functools
import html
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rdkit import Chem

from kflm2.config.train import TrainConfig
from kflm2.data.columns import SMILES, find_smiles
from kflm2.data.covariates import also_needed
from kflm2.data.datasets import Task
from kflm2.device import choose_device
from kflm2.errors import DataError, SettingError
from kflm2.files import atomic_folder, write_csv
from kflm2.metrics.conformal import CONFIDENCE
from kflm2.metrics.scores import summarize
from kflm2.predictor.bundle import CARD, check_destination
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.chunks import CHUNK
from kflm2.predictor.predictor import Predictor
from kflm2.resources import saved_model
from kflm2.results.saved_runs import SavedRun
from kflm2.stages.predict.table import table as prediction_table
from kflm2.stages.report.molecule_svg import SCALE, SIZE, draw
from kflm2.stages.train.stage import run as run_training

_DRAWN = 20
"""Molecules of a table that are drawn at most."""

Molecule = str | Chem.Mol | None


class PredictionTable(pd.DataFrame):
    """A table of predictions; a notebook shows it with drawings of its first molecules."""

    @property
    def _constructor(self) -> Callable[..., "PredictionTable"]:
        return PredictionTable

    def _repr_html_(self) -> str:
        if SMILES not in self:
            return str(pd.DataFrame(self)._repr_html_())
        shown = pd.DataFrame(self.head(_DRAWN)).astype(object)
        for name in shown:
            shown[name] = [_drawn(value) if name == SMILES else _cell(value) for value in shown[name]]
        shown.columns = pd.Index([html.escape(str(name)) for name in shown])
        more = len(self) - len(shown)
        return str(shown.to_html(escape=False)) + (f"<p>and {more:,} more rows</p>" if more > 0 else "")


@dataclass(frozen=True)
class Model:
    """A saved model in memory."""

    folder: Path
    predictor: Predictor
    card: str
    """What it is, how well it predicts, and how far to trust it, as Markdown."""

    @property
    def targets(self) -> tuple[str, ...]:
        """What it predicts."""
        return self.predictor.bundle.targets

    @property
    def task(self) -> Task:
        """What the targets are."""
        return self.predictor.bundle.task

    @property
    def features(self) -> tuple[str, ...]:
        """Columns that it reads beside the structure."""
        covariates = self.predictor.bundle.covariates
        return () if covariates is None else covariates.names

    def predict(
        self, molecules: Molecule | Sequence[Molecule] | pd.Series | pd.DataFrame, confidence: float = CONFIDENCE
    ) -> PredictionTable:
        """Predict molecules.

        Args:
            molecules: a SMILES or an RDKit molecule, several of them, or a table with a column of SMILES. It must be a
                table, with these columns, where the model reads feature columns.
            confidence: how often an interval, or a set of classes, is to hold the true value.

        Returns:
            A row for each molecule, in order, with the columns that `kflm2 predict` writes; `status` says why one has
            no prediction. The index is that of a Series or a table.

        Raises:
            DataError: it is not clear which column of a table holds the SMILES, a feature column is missing, or there
                are two of the name.
            SettingError: the confidence is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise SettingError(f"confidence is {confidence}; it must be between 0 and 1, such as 0.9")
        index: pd.Index | None = None
        cells = self._cells(molecules)
        if isinstance(molecules, pd.DataFrame):
            names, column = _names(molecules), self.predictor.bundle.smiles_column
            molecules = _column(molecules, column if column in names else find_smiles("the table", names))
        if isinstance(molecules, pd.Series):
            index, molecules = molecules.index, molecules.tolist()
        if molecules is None or isinstance(molecules, str | Chem.Mol):
            molecules = [molecules]
        smiles = [_smiles_of(molecule) for molecule in molecules]
        # the chunks of `kflm2 predict`, so that both give the same digits
        parts = [slice(start, start + CHUNK) for start in range(0, max(1, len(smiles)), CHUNK)]
        with _one_thread(self.predictor.device):
            tables = [
                prediction_table(
                    self.predictor.bundle,
                    smiles[part],
                    self.predictor.predict(smiles[part], confidence, None if cells is None else cells[part]),
                )
                for part in parts
            ]
        joined = PredictionTable(pd.concat(tables, ignore_index=True))
        return joined if index is None else joined.set_index(index)

    def _cells(self, molecules: Any) -> list[tuple[str, ...]] | None:
        """Of each row the cells of the feature columns; None where the model reads none.

        Raises:
            DataError: they are not there.
        """
        if not self.features:
            return None
        if not isinstance(molecules, pd.DataFrame):
            raise DataError(f"{also_needed(self.features)} beside the SMILES: give a table that has them")
        names = _names(molecules)
        if missing := [name for name in self.features if name not in names]:
            raise DataError(f"{also_needed(missing)}; the table has: {', '.join(map(repr, names))}")
        columns = [_column(molecules, name) for name in self.features]
        texts = [["" if pd.isna(cell) else str(cell) for cell in column] for column in columns]
        return list(zip(*texts, strict=True))

    def _repr_markdown_(self) -> str:
        return self.card


@dataclass(frozen=True)
class Picture:
    """A picture of a result; a notebook shows it."""

    path: Path

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """A trained model and how well it predicts; a notebook shows its metrics and its picture."""

    runs: list[SavedRun]
    """One a seed; the first one's model is kept."""
    folder: Path
    """With the model."""
    _temporary: tempfile.TemporaryDirectory | None = None
    """Deleted with the result."""

    def __repr__(self) -> str:
        record = self.runs[0].result
        name, tested = record.dataset.primary_metric, "test" in record.metrics
        part = "test" if tested else "valid"
        mean = self.metrics.loc[(part, name), "mean"]
        return f"TrainingResult({record.model} on {', '.join(record.dataset.targets)}: {part} {name} {mean:.3f})"

    @functools.cached_property
    def model(self) -> Model:
        """The trained model."""
        return load(self.folder)

    @property
    def metrics(self) -> pd.DataFrame:
        """Mean and standard deviation over the runs, by part and metric; with inner folds valid is out-of-fold."""
        record = self.runs[0].result
        rows = {
            (part, name): summarize([run.result.metrics[part][name] for run in self.runs])
            for part in record.metrics
            for name in record.dataset.mean_metrics
        }
        index = pd.MultiIndex.from_tuples(list(rows), names=["part", "metric"])
        values = [[np.nan if number is None else number for number in pair] for pair in rows.values()]
        return pd.DataFrame(values, index, ["mean", "sd"])

    @property
    def predictions(self) -> pd.DataFrame:
        """Every molecule of the first run: its row from 1, part, true and predicted values; see predictions.csv."""
        return self.runs[0].table.copy()

    def plot(self) -> Picture:
        """Predicted against measured values of the first run, or of classes the ROC curves."""
        return Picture(self.runs[0].folder / ("parity.png" if self.runs[0].task == "regression" else "roc.png"))

    def save(self, folder: str | Path) -> Path:
        """Keep the model in a folder, which `kflm2.load` and `kflm2 predict` read; another model there is replaced.

        Raises:
            BundleError: the folder holds something else.
        """
        target = check_destination(Path(folder))
        with atomic_folder(target) as temporary:
            shutil.copytree(self.folder, temporary, dirs_exist_ok=True)
        return target

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self.plot()._repr_png_()).decode()
        table = self.metrics.unstack("part")["mean"].reindex(self.runs[0].result.dataset.mean_metrics)
        table = table[[part for part in self.runs[0].result.metrics if part in table]]
        runs = f"{len(self.runs)} run{'' if len(self.runs) == 1 else 's'}"
        name = html.escape(f"{self.runs[0].result.model} on {', '.join(self.runs[0].targets)}, mean of {runs}")
        text = table.to_html(float_format=lambda value: f"{value:.3f}")
        return f'<p>{name}</p>{text}<img src="data:image/png;base64,{picture}" alt="predicted and measured values">'


def load(folder: str | Path, llm: str | None = None, device: str = "auto") -> Model:
    """Load a saved model.

    Args:
        folder: that `kflm2 train --save` or TrainingResult.save wrote, or the name of a model of `kflm2 models`.
        llm: where the model's LLM is, for one that is not in the registry.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        KFLM2Error: the folder holds no model, or its LLM is not here.
    """
    chosen, path = choose_device(device), saved_model(Path(folder)).resolve()
    predictor = Predictor(load_bundle(Path(folder), llm, chosen), chosen)
    # read here: the folder of a model that was just trained may be gone when it is asked for
    return Model(path, predictor, (path / CARD).read_text(encoding="utf-8") if (path / CARD).is_file() else "")


def train(
    table: pd.DataFrame | str | Path,
    *,
    targets: str | Sequence[str],
    features: str | Sequence[str] = (),
    smiles: str | None = None,
    model: str | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> TrainingResult:
    """Train a model on a table, and measure it.

    Args:
        table: with a header, or the file of one. Its molecules are SMILES or RDKit molecules.
        targets: columns to predict.
        features: columns that are read beside the structure, such as pH or assay.
        smiles: column of the molecules; default the one that `kflm2 train` would take.
        model: pipeline; default crossAtt, or that of `from_`, a saved model to go on from.
        out: folder for results and model; default a temporary one, which is deleted with the result.
        settings: of `kflm2 train`, such as epochs=50, runs=5, split="scaffold", weight_column="w" or refit=True.

    Raises:
        KFLM2Error: the table or a setting cannot be used.
    """
    if "config" in settings:
        raise SettingError("config, a file of settings, is of the command line; give its settings by their names")
    temporary = tempfile.TemporaryDirectory(prefix="kflm2-") if out is None else None
    folder = Path(temporary.name if temporary is not None else str(out))
    smiles = smiles and smiles.strip()
    config = TrainConfig.of(
        model,
        csv=_file_of(table, folder, smiles),
        smiles_column=smiles,
        target_columns=_words(targets),
        feature_columns=_words(features),
        out=folder,
        save=folder / "model",
        **{"runs": 1, **settings},
    ).completed()
    config.check()
    return TrainingResult(run_training(config), folder / "model", temporary)


def _file_of(table: pd.DataFrame | str | Path, folder: Path, smiles: str | None) -> Path:
    """The file of a table; one in memory is written."""
    if not isinstance(table, pd.DataFrame):
        return Path(table)
    names = _names(table)
    column = smiles or find_smiles("the table", names)
    if column not in names:
        raise DataError(f"the table has no column {column!r}; it has: {', '.join(map(repr, names))}")
    written = table.set_axis(names, axis=1)
    written[column] = [_smiles_of(molecule) for molecule in _column(table, column)]
    path = folder / "kflm2-input" / "table.csv"  # a folder of its own: `out` may hold a table of this name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, written)
    return path


def _words(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, without blanks around them."""
    return tuple(name.strip() for name in ((names,) if isinstance(names, str) else names))


def _names(table: pd.DataFrame) -> list[str]:
    """The names of the columns, without blanks around them, as a file's are read."""
    return [str(name).strip() for name in table]


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    """The column of a name that the table has.

    Raises:
        DataError: there are several.
    """
    names = _names(table)
    if (count := names.count(name)) > 1:
        raise DataError(f"the table: {count} columns are named {name!r}; which one is meant?")
    return table.iloc[:, names.index(name)]


def _smiles_of(molecule: Any) -> str:
    """SMILES of a molecule; '' for a missing one."""
    if isinstance(molecule, Chem.Mol):
        return str(Chem.MolToSmiles(molecule))
    return molecule if isinstance(molecule, str) else ""


def _drawn(smiles: Any) -> str:
    text = html.escape(str(smiles))
    if (drawing := draw(str(smiles))) is None:
        return text
    box = f"0 0 {SIZE[0] * SCALE} {SIZE[1] * SCALE}"
    return (
        f'<svg viewBox="{box}" width="{SIZE[0]}" height="{SIZE[1]}" role="img">{drawing}</svg><br><small>{text}</small>'
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))


class _one_thread:
    """One thread of torch inside a block on a CPU, as `kflm2 predict` has, for the same digits."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        if self.device.type == "cpu":
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)
