"""Predictions of a file of any size: chunk by chunk, in order, a row for a row, and safe against a kill."""

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
from kflm2.predictor.predictor import OK, Predicted, Predictor
from kflm2.predictor.readers import InputRow, MoleculeReader

CHUNK = 1024
"""Rows predicted at once. A run that goes on after a kill cuts at the same places, and so writes the same bits."""
_ROW_GROUP = 65_536
"""Rows of a Parquet file that are written together."""
_SHOWN = 5
_COLUMNS = ("row", "name", "smiles", "in_domain", "nearest", "similarity", "distance", "status")


def run(config: PredictConfig) -> int:
    """Predict, and write a row for every row.

    Args:
        config: checked.

    Returns:
        How many rows have no prediction.

    Raises:
        KFLM2Error: model or input cannot be used, or the output cannot be written on.
    """
    device = choose_device(config.device)
    bundle = Bundle.load(config.model, config.llm, device)
    reader = MoleculeReader.of(config.molecules, config.smiles_column, config.name_column)
    if config.out is not None:
        _check_place(config.out, reader, config.model)
    job = _Job(config, Predictor(bundle, device), reader)
    start = time.perf_counter()
    try:
        statuses = job.write(sys.stdout, job.first, Counter()) if config.out is None else _to_file(config, job)
    except BrokenPipeError:  # whoever reads has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    _say(statuses, time.perf_counter() - start, config.out)
    return sum(count for status, count in statuses.items() if status != OK)


def _check_place(out: Path, reader: MoleculeReader, model: Path) -> None:
    """Refuse an output that cannot be, or would take the place of the input, before anything is predicted."""
    if out.is_dir():
        raise DataError(f"out {out} is a folder; give a file")
    if reader.path is not None and out.exists() and out.samefile(reader.path):
        raise DataError(f"out {out} is the input itself; give another file")
    if out.resolve().is_relative_to(model.resolve()):
        raise DataError(f"out {out} lies in the model; give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise DataError(f"out {out}: its folder cannot be written to")


class _Job:
    """What is to be predicted: the rows from `first` up to `last`."""

    def __init__(self, config: PredictConfig, predictor: Predictor, reader: MoleculeReader) -> None:
        self.predictor, self.reader, self.confidence = predictor, reader, config.confidence
        number, shares = config.share()
        count = reader.count()
        # shares are cut between chunks, so that put together they are the same bits as the whole
        chunks = None if count is None else -(-count // CHUNK)
        self.first = 0 if chunks is None else (number - 1) * chunks // shares * CHUNK
        self.last = None if chunks is None or count is None else min(count, number * chunks // shares * CHUNK)

    def write(self, file: IO[str], start: int, statuses: Counter[str], safe: "_Journal | None" = None) -> Counter[str]:
        """Write the rows from `start` on.

        Args:
            file: text; the header is written where this is the first row.
            start: row.
            statuses: of the rows before.
            safe: told after each chunk.
        """
        total = None if self.last is None else self.last - self.first
        rows = itertools.islice(self.reader.rows(), start, self.last)
        with tqdm(total=total, initial=start - self.first, desc="predicting", unit="mol", disable=total == 0) as bar:
            if start == self.first:
                file.write(self._text([], start, header=True, statuses=statuses))
            for number, chunk in enumerate(_chunks(rows)):
                row = start + number * CHUNK
                file.write(self._text(chunk, row, header=False, statuses=statuses))
                file.flush()
                if safe is not None:
                    safe(row + len(chunk), statuses)
                bar.update(len(chunk))
        return statuses

    def _text(self, chunk: list[InputRow], start: int, header: bool, statuses: Counter[str]) -> str:
        text = io.StringIO()
        # six digits are more than any model knows
        self.table(chunk, start, statuses).to_csv(
            text, index=False, header=header, float_format="%.6g", lineterminator="\n"
        )
        return text.getvalue()

    def table(self, chunk: list[InputRow], start: int, statuses: Counter[str]) -> pd.DataFrame:
        """Predictions of rows that follow each other, the first one after `start`; their statuses are counted."""
        smiles, problems = [], {}
        for i, given in enumerate(chunk):
            try:
                smiles.append(self.reader.smiles(given))
            except MoleculeError as error:
                smiles.append("")
                problems[i] = str(error)
        found = self.predictor.predict(smiles, self.confidence)
        for i, problem in problems.items():
            found.status[i] = problem
        statuses.update(found.status)
        frame = table(self.predictor.bundle, smiles, found)
        if self.reader.named:
            frame.insert(0, "name", np.array([given.name for given in chunk], dtype=object))
        frame.insert(0, "row", np.arange(start + 1, start + len(chunk) + 1))
        return frame


def table(bundle: Bundle, smiles: list[str], found: Predicted) -> pd.DataFrame:
    """Predictions as people read them, a row a molecule.

    For each target T of a regression `T`, `T_low`, `T_high`; for classes `T` (probability), `T_class` and `T_possible`,
    the classes that cannot be ruled out. Then `in_domain`, `nearest`, `similarity`, `distance` and `status`.
    """
    columns: dict[str, object] = {"smiles": np.array(smiles, dtype=object)}
    ok = np.array([status == OK for status in found.status], dtype=bool)
    for k, target in enumerate(_names(bundle)):
        columns[target] = found.y_pred[:, k]
        if found.intervals is not None:
            columns[f"{target}_low"], columns[f"{target}_high"] = found.intervals[:, k].T
        if found.called is not None and found.sets is not None:
            columns[f"{target}_class"] = pd.array(found.called[:, k], dtype="Int64")
            words = np.array(["none", "0", "1", "0 or 1"])
            columns[f"{target}_possible"] = np.where(ok, words[found.sets[:, k] @ np.array([1, 2])], "")
    columns["in_domain"] = np.where(ok, np.where(found.places.inside, "yes", "no"), "")
    columns["nearest"] = np.array(found.nearest, dtype=object)
    columns["similarity"], columns["distance"] = found.places.similarity, found.places.distance
    columns["status"] = np.array(found.status, dtype=object)
    return pd.DataFrame(columns)


def _names(bundle: Bundle) -> list[str]:
    """The targets' columns: their names, or longer ones where others would share a column."""
    taken, names = set(_COLUMNS), []
    for name in bundle.targets:
        while taken & (own := {name, *(f"{name}_{end}" for end in ("low", "high", "class", "possible"))}):
            name = f"{name}_predicted"
        taken |= own
        names.append(name)
    return names


def _chunks(rows: Iterator[InputRow]) -> Iterator[list[InputRow]]:
    while chunk := list(itertools.islice(rows, CHUNK)):
        yield chunk


class _Journal:
    """How much of a file that grows is safe: rows, bytes, and what was said of them."""

    def __init__(self, path: Path, of: str, file: IO[str]) -> None:
        self.path, self.of, self.file = path, of, file

    def __call__(self, rows: int, statuses: Counter[str]) -> None:
        os.fsync(self.file.fileno())
        size = os.fstat(self.file.fileno()).st_size
        write_json(self.path, {"of": self.of, "rows": rows, "bytes": size, "statuses": dict(statuses)})


def _to_file(config: PredictConfig, job: _Job) -> Counter[str]:
    """Write beside the output, and put it in its place when it is whole."""
    out = config.out
    assert out is not None
    part, journal = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.part.json")
    # what the rows depend on: another command must not go on where this one was
    given = [job.reader.digest(), str(config.confidence), str(config.shard), str(config.name_column)]
    of = sha256_texts([*given, config.smiles_column, sha256_file(config.model / "bundle.json")])
    lock = FileLock(out.with_name(f"{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"{out} is being written by another process") from None
    rows, size, statuses = _safe(part, journal, of if job.reader.digest() else "")
    try:
        with open(part, "r+" if size else "w", encoding="utf-8", newline="") as file:
            file.truncate(size)
            file.seek(size)
            if rows:
                print(f"going on after row {rows} of {part}", file=sys.stderr)
            job.write(file, rows or job.first, statuses, _Journal(journal, of, file))
        _put(part, out, job.table([], 0, Counter()))
    except OSError as error:
        done = _safe(part, journal, of)[0]
        again = "and the same command goes on after them" if job.reader.digest() else "but standard input is gone"
        raise DataError(
            f"{out}: {error.strerror or error}; {max(0, done - job.first)} rows are safe in {part}, {again}"
        ) from None
    finally:
        # before it is let go: nobody may wait for a file that is about to go
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()
    part.unlink(missing_ok=True)
    journal.unlink(missing_ok=True)
    return statuses


def _safe(part: Path, journal: Path, of: str) -> tuple[int, int, Counter[str]]:
    """Rows, bytes and statuses that a killed run of the same command left; zeros where there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(journal.read_text(encoding="utf-8"))
        if known["of"] == of and part.stat().st_size >= known["bytes"]:
            return int(known["rows"]), int(known["bytes"]), Counter(known["statuses"])
    return 0, 0, Counter()


def _put(part: Path, out: Path, columns: pd.DataFrame) -> None:
    if out.suffix.lower() == ".csv":
        os.replace(part, out)
        return
    import pyarrow as pa
    from pyarrow import parquet

    # types as they are, not as the first rows look; a cell with nothing in it is missing only where it is a number
    types = columns.dtypes.items()
    numbers = {name: kind.name for name, kind in types if kind.name in ("int64", "Int64", "float64")}
    kinds = {"int64": pa.int64(), "Int64": pa.int64(), "float64": pa.float64()}
    schema = pa.schema([(name, kinds[numbers[name]] if name in numbers else pa.string()) for name in columns])
    reader = pd.read_csv(
        part,
        chunksize=_ROW_GROUP,
        dtype={name: numbers.get(name, str) for name in columns},
        keep_default_na=False,
        na_values={name: [""] for name in numbers},
    )
    with atomic(out) as temporary, reader, parquet.ParquetWriter(temporary, schema) as writer:
        for chunk in reader:
            writer.write_table(pa.Table.from_pandas(chunk, schema, preserve_index=False))


def _say(statuses: Counter[str], seconds: float, out: Path | None) -> None:
    """What a person should know of the rows; on standard error, since the rows may be on standard output."""
    count, ok = sum(statuses.values()), statuses[OK]
    lines = [f"{ok} of {count} molecules predicted in {seconds:.1f} s"]
    failed = [(status, number) for status, number in statuses.most_common() if status != OK]
    lines += [f"  {number:>7}  {status}" for status, number in failed[:_SHOWN]]
    if len(failed) > _SHOWN:
        lines.append(f"  {sum(number for _, number in failed[_SHOWN:]):>7}  for {len(failed) - _SHOWN} more reasons")
    print("\n".join([*lines, *([f"{out}"] if out else [])]), file=sys.stderr)
