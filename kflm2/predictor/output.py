"""A row of output for each row of the input, in order, for a file of any size; goes on after a kill."""

import contextlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

import torch
from filelock import FileLock, Timeout

from kflm2 import resources
from kflm2.config.base import StreamConfig
from kflm2.device import choose_device
from kflm2.errors import DataError, KFLM2Error
from kflm2.files import sha256_file, sha256_texts, write_json
from kflm2.predictor import formats
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.chunks import Chunk, ChunkModel, chunks
from kflm2.predictor.featurizer import OK
from kflm2.predictor.manifest import JSON
from kflm2.predictor.predictor import Predictor
from kflm2.predictor.readers import MoleculeReader, reader_of
from kflm2.progress import Progress
from kflm2.trainers.jobs import default_jobs

_MOST_REASONS = 5
"""Reasons for missing results that are printed."""


def load_predictor(config: StreamConfig, writings: int = 1) -> Predictor:
    """The saved model that the settings name.

    Args:
        config: checked.
        writings: see Predictor.

    Raises:
        KFLM2Error: it cannot be used.
    """
    device = choose_device(config.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # one for each process; see ChunkModel.stream
    if resources.saved_model(config.model) != config.model:
        print(f"model: {config.model}, which comes with kflm2", file=sys.stderr)
    bundle = load_bundle(config.model, config.llm, device)
    return Predictor(bundle, device, config.max_atoms, config.max_tokens, writings)


def open_input(config: StreamConfig) -> MoleculeReader:
    """The molecules that the settings name; an output that cannot be written is refused.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the input cannot be used, or the output cannot be written.
    """
    reader = reader_of(config)
    if config.out is not None:
        _check_output(config.out, reader, config.model, config.engine == "ray")
    return reader


def write_rows(config: StreamConfig, model: ChunkModel, settings: Sequence[object]) -> int:
    """Write one output row per input row, to a file or to standard output, and print how many have a result.

    Args:
        config: checked.
        model: makes the rows.
        settings: name of the stage, and its own settings on which the rows depend: another command must not continue
            this one's file.

    Returns:
        Number of rows without a result.

    Raises:
        KFLM2Error: the input cannot be read, or the output not be written, to its end.
    """
    job = _RowsJob(config, model)
    start = time.perf_counter()
    try:
        statuses = _print_rows(job) if config.out is None else _write_file(config, job, settings)
    except BrokenPipeError:  # the reader of standard output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    print_summary(statuses, model.DONE, time.perf_counter() - start, config.out)
    return sum(count for status, count in statuses.items() if status != OK)


def _check_output(out: Path, reader: MoleculeReader, model: Path, folder: bool) -> None:
    """Refuse an output that cannot be written, or would overwrite the input, before the work starts."""
    if out.exists() and out.is_dir() != folder:
        raise DataError(f"out {out} is a {'file' if folder else 'folder'}; give a {'folder' if folder else 'file'}")
    if reader.path is not None and out.exists() and out.samefile(reader.path):
        raise DataError(f"out {out} is the input itself; give another file")
    if out.resolve().is_relative_to(resources.saved_model(model).resolve()):
        raise DataError(f"out {out} lies in the model; give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise DataError(f"out {out}: its folder cannot be written to")


def _print_rows(job: "_RowsJob") -> Counter[str]:
    def write(data: bytes) -> None:
        if (buffer := getattr(sys.stdout, "buffer", None)) is None:  # of a notebook
            sys.stdout.write(data.decode())
        else:  # as they are: the terminal's encoding may lack a letter of a name
            sys.stdout.flush()
            buffer.write(data)
        sys.stdout.flush()

    return job.write(write, formats.as_csv, job.first, Counter())


class _RowsJob:
    """The output of the rows from index `first` up to `last`, which is excluded."""

    def __init__(self, config: StreamConfig, model: ChunkModel) -> None:
        self.model, self.reader = model, model.read.reader
        number, shares = config.share()
        count = self.reader.count()
        # several processes would read far ahead of what a program writes that waits for the answers
        self.jobs = config.jobs or (1 if count is None else default_jobs())
        self.first = 0 if count is None else (number - 1) * count // shares
        self.last = None if count is None else number * count // shares

    def write(
        self,
        write: Callable[[bytes], object],
        encode: formats.Encode,
        start: int,
        statuses: Counter[str],
        journal: "_ProgressJournal | None" = None,
    ) -> Counter[str]:
        """Write the rows from index `start` on.

        Args:
            write: takes the bytes of a header, if `start` is the first row, and of each chunk.
            encode: a table as bytes of the output's format, with or without its header.
            start: index of a row.
            statuses: counts for the rows before; those of the written rows are added.
            journal: records the progress after each chunk.

        Returns:
            statuses.
        """
        total, doing = None if self.last is None else self.last - self.first, self.model.DOING
        stream = self.model.stream(chunks(self.reader, start, self.last, self.model.chunk_size), self.jobs)
        with (
            Progress(total=total, initial=start - self.first, desc=doing, unit="mol", disable=total == 0) as bar,
            contextlib.closing(stream),
        ):
            if start == self.first:
                write(encode(self.model(Chunk(start, []))[1], True))
            for chunk, rows in stream:
                # a chunk at the edge of a share is computed whole, since the last bits of a row depend on the others
                rows = rows[(rows["row"] > start) & (rows["row"] <= (self.last or math.inf))]
                write(encode(rows, False))
                statuses.update(rows["status"])
                if journal is not None:
                    end = chunk.start + len(chunk.rows)
                    journal(end if self.last is None else min(end, self.last), statuses)
                bar.update(len(rows))
        return statuses


class _ProgressJournal:
    """Records how much of a growing file is on disk: rows, bytes, and counts of statuses."""

    def __init__(self, path: Path, digest: str, file: IO[bytes]) -> None:
        self.path, self.digest, self.file = path, digest, file

    def __call__(self, rows: int, statuses: Counter[str]) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        size = os.fstat(self.file.fileno()).st_size
        write_json(self.path, {"of": self.digest, "rows": rows, "bytes": size, "statuses": dict(statuses)})


def _write_file(config: StreamConfig, job: _RowsJob, settings: Sequence[object]) -> Counter[str]:
    """Write to a file beside the output, and move it to the output when it is complete."""
    out = config.out
    assert out is not None
    part, journal = out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.part.json")
    with locked(out):
        statuses = _write_locked(config, job, settings, part, journal)
        # deleted before the release: another process may start at once, with files of the same names
        part.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
    return statuses


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep other processes from writing the same output.

    Raises:
        DataError: another process is writing it.
    """
    lock = FileLock(out.with_name(f"{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"{out} is being written by another process") from None
    try:
        yield
    finally:
        # deleted before the release: no process may wait for a lock file that is then deleted
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def command_digest(config: StreamConfig, reader: MoleculeReader, settings: Sequence[object]) -> str:
    """SHA-256 of all that the rows depend on: another command must not continue an output. '' for standard input.

    Args:
        config: checked.
        reader: of the input.
        settings: see write_rows.
    """
    if not (digest := reader.digest()):
        return ""
    columns = (reader.smiles_column, reader.name_column, reader.keep)
    shared = (config.shard, *columns, config.max_atoms, config.max_tokens)
    bundle = sha256_file(resources.saved_model(config.model) / JSON)
    return sha256_texts([digest, bundle, version("rdkit"), *map(str, (*shared, *settings))])


def _write_locked(
    config: StreamConfig, job: _RowsJob, settings: Sequence[object], part: Path, journal: Path
) -> Counter[str]:
    """The work of _write_file; `part` and `journal` stay where the same command could go on, and only there."""
    out, digest = config.out, command_digest(config, job.reader, settings)
    assert out is not None
    rows, size, statuses = _saved_progress(part, journal, digest)
    try:
        with open(part, "r+b" if size else "wb") as file:
            file.truncate(size)
            file.seek(size)
            if rows:
                print(f"going on after row {rows} of {part}", file=sys.stderr)
            record = _ProgressJournal(journal, digest, file)
            encode = formats.encoder(out, job.model.arrow_types())
            job.write(file.write, encode, rows or job.first, statuses, record)
        formats.finish(part, out)
    except OSError as error:
        done = _saved_progress(part, journal, digest)[0]
        advice = "and the same command goes on after them" if digest else "but standard input is gone"
        raise DataError(
            f"{out}: {error.strerror or error}; {max(0, done - job.first)} rows are safe in {part}, {advice}"
        ) from None
    except KFLM2Error:  # the input itself is damaged: the same command would stop there again
        part.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        raise
    return statuses


def _saved_progress(part: Path, journal: Path, digest: str) -> tuple[int, int, Counter[str]]:
    """Rows, bytes and statuses of an interrupted run of the same command; zeros if there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(journal.read_text(encoding="utf-8"))
        if digest and record["of"] == digest and part.stat().st_size >= record["bytes"]:
            return int(record["rows"]), int(record["bytes"]), Counter(record["statuses"])
    return 0, 0, Counter()


def print_summary(statuses: Counter[str], done: str, seconds: float, out: Path | None) -> None:
    """Print the counts of statuses, to standard error since the rows may be on standard output."""
    count, ok = sum(statuses.values()), statuses[OK]
    lines = [f"{ok} of {count} molecules {done} in {seconds:.1f} s"]
    failed = [(status, rows) for status, rows in statuses.most_common() if status != OK]
    lines += [f"  {rows:>7}  {status}" for status, rows in failed[:_MOST_REASONS]]
    if rest := failed[_MOST_REASONS:]:
        lines.append(f"  {sum(rows for _, rows in rest):>7}  for {len(rest)} more reasons")
    print("\n".join([*lines, *([f"{out}"] if out else [])]), file=sys.stderr)
