"""Predictions of a file of any size: in chunks, in order, one output row per input row; resumes after a kill."""

import contextlib
import io
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from kflm2.config.predict import PredictConfig
from kflm2.device import choose_device
from kflm2.errors import DataError, MoleculeError
from kflm2.files import atomic, sha256_file, sha256_texts, write_json
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.predictor import OK, Predictions, Predictor
from kflm2.predictor.readers import InputRow, MoleculeReader

CHUNK = 1024
"""Rows predicted at once. A resumed run uses the same chunks as an uninterrupted one, and so writes the same bits."""
_ROW_GROUP = 65_536
"""Rows in a row group of a Parquet file."""
_MOST_REASONS = 5
"""Reasons for missing predictions that are printed."""
_COLUMNS = ("row", "name", "smiles", "in_domain", "nearest", "similarity", "distance", "status")


def run(config: PredictConfig) -> int:
    """Predict, and write one output row per input row.

    Args:
        config: checked.

    Returns:
        Number of rows without a prediction.

    Raises:
        KFLM2Error: model or input cannot be used, or the output cannot be written to its end.
    """
    device = choose_device(config.device)
    bundle = load_bundle(config.model, config.llm, device)
    reader = MoleculeReader.of(config.molecules, config.smiles_column, config.name_column)
    if config.out is not None:
        _check_output(config.out, reader, config.model)
    job = _PredictionJob(config, Predictor(bundle, device), reader)
    start = time.perf_counter()
    try:
        statuses = job.write(sys.stdout, job.first, Counter()) if config.out is None else _write_file(config, job)
    except BrokenPipeError:  # the reader of standard output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    _print_summary(statuses, time.perf_counter() - start, config.out)
    return sum(count for status, count in statuses.items() if status != OK)


def _check_output(out: Path, reader: MoleculeReader, model: Path) -> None:
    """Refuse an output that cannot be written, or would overwrite the input, before anything is predicted."""
    if out.is_dir():
        raise DataError(f"out {out} is a folder; give a file")
    if reader.path is not None and out.exists() and out.samefile(reader.path):
        raise DataError(f"out {out} is the input itself; give another file")
    if out.resolve().is_relative_to(model.resolve()):
        raise DataError(f"out {out} lies in the model; give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise DataError(f"out {out}: its folder cannot be written to")


class _PredictionJob:
    """Predictions of the rows from index `first` up to `last`, which is excluded."""

    def __init__(self, config: PredictConfig, predictor: Predictor, reader: MoleculeReader) -> None:
        self.predictor, self.reader, self.confidence = predictor, reader, config.confidence
        number, shares = config.share()
        count = reader.count()
        # shares consist of whole chunks, so that their concatenation is bit-identical to the output without shares
        chunks = None if count is None else -(-count // CHUNK)
        self.first = 0 if chunks is None else (number - 1) * chunks // shares * CHUNK
        self.last = None if chunks is None or count is None else min(count, number * chunks // shares * CHUNK)

    def write(
        self, file: IO[str], start: int, statuses: Counter[str], journal: "_ProgressJournal | None" = None
    ) -> Counter[str]:
        """Write the rows from index `start` on.

        Args:
            file: text; the header is written if `start` is the first row.
            start: index of a row.
            statuses: counts for the rows before; those of the written rows are added.
            journal: records the progress after each chunk.

        Returns:
            statuses.
        """
        total = None if self.last is None else self.last - self.first
        rows = itertools.islice(self.reader.rows(), start, self.last)
        with tqdm(total=total, initial=start - self.first, desc="predicting", unit="mol", disable=total == 0) as bar:
            if start == self.first:
                file.write(self._csv([], start, header=True, statuses=statuses))
            for i, chunk in enumerate(_chunks(rows)):
                row = start + i * CHUNK
                file.write(self._csv(chunk, row, header=False, statuses=statuses))
                file.flush()
                if journal is not None:
                    journal(row + len(chunk), statuses)
                bar.update(len(chunk))
        return statuses

    def _csv(self, chunk: list[InputRow], start: int, header: bool, statuses: Counter[str]) -> str:
        text = io.StringIO()
        # six digits are more than the accuracy of any model
        self.table(chunk, start, statuses).to_csv(
            text, index=False, header=header, float_format="%.6g", lineterminator="\n"
        )
        return text.getvalue()

    def table(self, chunk: list[InputRow], start: int, statuses: Counter[str]) -> pd.DataFrame:
        """Predictions of consecutive rows, the first of index `start`; their statuses are added to the counts."""
        smiles, problems = [], {}
        for i, row in enumerate(chunk):
            try:
                smiles.append(self.reader.smiles(row))
            except MoleculeError as error:
                smiles.append("")
                problems[i] = str(error)
        predictions = self.predictor.predict(smiles, self.confidence)
        for i, problem in problems.items():
            predictions.status[i] = problem
        statuses.update(predictions.status)
        frame = table(self.predictor.bundle, smiles, predictions)
        if self.reader.named:
            frame.insert(0, "name", np.array([row.name for row in chunk], dtype=object))
        frame.insert(0, "row", np.arange(start + 1, start + len(chunk) + 1))
        return frame


def table(bundle: Bundle, smiles: list[str], predictions: Predictions) -> pd.DataFrame:
    """The output table, a row per molecule.

    Columns: `smiles`; for each target T of a regression `T`, `T_low`, `T_high`; for classification `T` (probability),
    `T_class` and `T_possible`, the classes that cannot be excluded; then `in_domain`, `nearest`, `similarity`,
    `distance` and `status`.
    """
    columns: dict[str, object] = {"smiles": np.array(smiles, dtype=object)}
    ok = np.array([status == OK for status in predictions.status], dtype=bool)
    for k, target in enumerate(_target_columns(bundle)):
        columns[target] = predictions.y_pred[:, k]
        if predictions.intervals is not None:
            columns[f"{target}_low"], columns[f"{target}_high"] = predictions.intervals[:, k].T
        if predictions.predicted_class is not None and predictions.sets is not None:
            columns[f"{target}_class"] = pd.array(predictions.predicted_class[:, k], dtype="Int64")
            labels = np.array(["none", "0", "1", "0 or 1"])
            columns[f"{target}_possible"] = np.where(ok, labels[predictions.sets[:, k] @ np.array([1, 2])], "")
    columns["in_domain"] = np.where(ok, np.where(predictions.domain.inside, "yes", "no"), "")
    columns["nearest"] = np.array(predictions.nearest, dtype=object)
    columns["similarity"], columns["distance"] = predictions.domain.similarity, predictions.domain.distance
    columns["status"] = np.array(predictions.status, dtype=object)
    return pd.DataFrame(columns)


def _target_columns(bundle: Bundle) -> list[str]:
    """The columns of the targets: their names, with a suffix where a column of that name exists."""
    taken, names = set(_COLUMNS), []
    for name in bundle.targets:
        while taken & (columns := {name, *(f"{name}_{end}" for end in ("low", "high", "class", "possible"))}):
            name = f"{name}_predicted"
        taken |= columns
        names.append(name)
    return names


def _chunks(rows: Iterator[InputRow]) -> Iterator[list[InputRow]]:
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


class _ProgressJournal:
    """Records how much of a growing file is on disk: rows, bytes, and counts of statuses."""

    def __init__(self, path: Path, command_digest: str, file: IO[str]) -> None:
        self.path, self.command_digest, self.file = path, command_digest, file

    def __call__(self, rows: int, statuses: Counter[str]) -> None:
        os.fsync(self.file.fileno())
        size = os.fstat(self.file.fileno()).st_size
        write_json(self.path, {"of": self.command_digest, "rows": rows, "bytes": size, "statuses": dict(statuses)})


def _write_file(config: PredictConfig, job: _PredictionJob) -> Counter[str]:
    """Write to a file beside the output, and move it to the output when it is complete."""
    out = config.out
    assert out is not None
    part, journal = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.part.json")
    # of everything that the rows depend on: another command must not continue this one's file
    inputs = [job.reader.digest(), str(config.confidence), str(config.shard), str(config.name_column)]
    command_digest = sha256_texts([*inputs, config.smiles_column, sha256_file(config.model / "bundle.json")])
    lock = FileLock(out.with_name(f"{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"{out} is being written by another process") from None
    rows, size, statuses = _saved_progress(part, journal, command_digest if job.reader.digest() else "")
    try:
        with open(part, "r+" if size else "w", encoding="utf-8", newline="") as file:
            file.truncate(size)
            file.seek(size)
            if rows:
                print(f"going on after row {rows} of {part}", file=sys.stderr)
            job.write(file, rows or job.first, statuses, _ProgressJournal(journal, command_digest, file))
        _finish_output(part, out, job.table([], 0, Counter()))
    except OSError as error:
        done = _saved_progress(part, journal, command_digest)[0]
        advice = "and the same command goes on after them" if job.reader.digest() else "but standard input is gone"
        raise DataError(
            f"{out}: {error.strerror or error}; {max(0, done - job.first)} rows are safe in {part}, {advice}"
        ) from None
    else:
        # deleted before the release: another process may start at once, with files of the same names
        part.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
    finally:
        # deleted before the release too: no process may wait for a lock file that is then deleted
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()
    return statuses


def _saved_progress(part: Path, journal: Path, command_digest: str) -> tuple[int, int, Counter[str]]:
    """Rows, bytes and statuses of an interrupted run of the same command; zeros if there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(journal.read_text(encoding="utf-8"))
        if record["of"] == command_digest and part.stat().st_size >= record["bytes"]:
            return int(record["rows"]), int(record["bytes"]), Counter(record["statuses"])
    return 0, 0, Counter()


def _finish_output(part: Path, out: Path, empty: pd.DataFrame) -> None:
    """Move the complete CSV file to the output, or convert it to Parquet with the column types of `empty`."""
    if out.suffix.lower() == ".csv":
        os.replace(part, out)
        return
    import pyarrow as pa
    from pyarrow import parquet

    # pandas would guess the types from the first rows; an empty cell is a missing value only in a column of numbers
    arrow_types = {"int64": pa.int64(), "Int64": pa.int64(), "float64": pa.float64()}
    numbers = {name: dtype.name for name, dtype in empty.dtypes.items() if dtype.name in arrow_types}
    schema = pa.schema([(name, arrow_types[numbers[name]] if name in numbers else pa.string()) for name in empty])
    reader = pd.read_csv(
        part,
        chunksize=_ROW_GROUP,
        dtype={name: numbers.get(name, str) for name in empty},
        keep_default_na=False,
        na_values={name: [""] for name in numbers},
    )
    with atomic(out) as temporary, reader, parquet.ParquetWriter(temporary, schema) as writer:
        for chunk in reader:
            writer.write_table(pa.Table.from_pandas(chunk, schema, preserve_index=False))


def _print_summary(statuses: Counter[str], seconds: float, out: Path | None) -> None:
    """Print the counts of statuses, to standard error since the rows may be on standard output."""
    count, ok = sum(statuses.values()), statuses[OK]
    lines = [f"{ok} of {count} molecules predicted in {seconds:.1f} s"]
    failed = [(status, rows) for status, rows in statuses.most_common() if status != OK]
    lines += [f"  {rows:>7}  {status}" for status, rows in failed[:_MOST_REASONS]]
    if rest := failed[_MOST_REASONS:]:
        lines.append(f"  {sum(rows for _, rows in rest):>7}  for {len(rest)} more reasons")
    print("\n".join([*lines, *([f"{out}"] if out else [])]), file=sys.stderr)
