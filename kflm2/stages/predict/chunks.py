"""Rows of the input to rows of the output, a chunk at a time, in this process or in others."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kflm2.errors import MoleculeError
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.predictor import OK, MoleculeFeaturizer, Predictions, Predictor, ReadMolecules
from kflm2.predictor.readers import InputRow, MoleculeReader
from kflm2.trainers.jobs import run_stream

CHUNK = 256
"""Rows predicted at once. A resumed run and a share use the same chunks as the whole, and so write the same bits."""
CHUNK_OF_XTB = 16
"""The same where quantum chemistry is computed, which takes a thousand times the time."""
_CHUNK_CHARACTERS = 1 << 17
"""Characters of input after which a chunk ends too: ten times those of 256 ordinary SMILES."""
_COLUMNS = ("row", "name", "smiles", "in_domain", "nearest", "similarity", "distance", "status", "xtb")


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of the input."""

    start: int
    """Index of the first row."""
    rows: list[InputRow]


@dataclass(frozen=True)
class ReadChunk:
    """The same, when its molecules have been read."""

    chunk: Chunk
    smiles: list[str]
    """As the input has them; '' where it has none."""
    problems: dict[int, str]
    """Why a row of the chunk has no SMILES."""
    read: ReadMolecules


def chunks(reader: MoleculeReader, start: int, last: int | None, size: int) -> Iterator[Chunk]:
    """The chunks of at most `size` rows with rows from index `start` to `last`, which is excluded.

    They are counted from the first row of the input, whatever the share and the start.
    """
    index, rows = 0, reader.rows()
    while (last is None or index < last) and (chunk := _next_chunk(rows, size)):
        if index + len(chunk) > start:
            yield Chunk(index, chunk)
        index += len(chunk)


@dataclass(frozen=True)
class ChunkReader:
    """Reads the molecules of a chunk; it has no models."""

    reader: MoleculeReader
    featurizer: MoleculeFeaturizer

    def __call__(self, chunk: Chunk) -> ReadChunk:
        """Read the molecules."""
        smiles, problems = [], {}
        for i, row in enumerate(chunk.rows):
            try:
                smiles.append(self.reader.smiles(row))
            except MoleculeError as error:
                smiles.append("")
                problems[i] = str(error)
        return ReadChunk(chunk, smiles, problems, self.featurizer(smiles))


@dataclass(frozen=True)
class ChunkPredictor:
    """Predicts the rows of a chunk."""

    read: ChunkReader
    predictor: Predictor
    confidence: float

    def __call__(self, chunk: Chunk) -> tuple[Chunk, pd.DataFrame]:
        """The chunk, and the output table of its rows."""
        return self.finish(self.read(chunk))

    def finish(self, done: ReadChunk) -> tuple[Chunk, pd.DataFrame]:
        """The same of a chunk whose molecules have been read."""
        chunk, predictions = done.chunk, self.predictor.predict_read(done.read, self.confidence)
        for i, problem in done.problems.items():
            predictions.status[i] = problem
        frame = table(self.predictor.bundle, done.smiles, predictions)
        if self.read.reader.named:
            frame.insert(0, "name", np.array([row.name for row in chunk.rows], dtype=object))
        frame.insert(0, "row", np.arange(chunk.start + 1, chunk.start + len(chunk.rows) + 1))
        return chunk, frame

    @property
    def chunk_size(self) -> int:
        """Rows of a chunk, at most."""
        return CHUNK_OF_XTB if "xtb" in self.read.featurizer.descriptors else CHUNK

    def stream(self, chunks: Iterable[Chunk], jobs: int) -> Generator[tuple[Chunk, pd.DataFrame], None, None]:
        """Chunks in order; see run_stream for the processes.

        On a CPU each process does all of a chunk, with one thread: no part of the work waits for another, and the bits
        do not depend on the number of processes. With a GPU the processes read the molecules, and this one predicts.
        """
        if self.predictor.device.type == "cpu":
            yield from run_stream(self, chunks, jobs, forked=True)
        else:
            yield from map(self.finish, run_stream(self.read, chunks, jobs, forked=False))


def table(bundle: Bundle, smiles: list[str], predictions: Predictions) -> pd.DataFrame:
    """The output table, a row per molecule.

    Columns: `smiles`; for each target T of a regression `T`, `T_low`, `T_high`; for classification `T` (probability),
    `T_class` and `T_possible`, the classes that cannot be excluded; then `in_domain`, `nearest`, `similarity`,
    `distance`, `status`, and of a model that reads xTB `xtb`: ok, or why the molecule has no such values. With several
    writings `T_writings` too.
    """
    columns: dict[str, object] = {"smiles": np.array(smiles, dtype=object)}
    ok = np.array([status == OK for status in predictions.status], dtype=bool)
    for k, target in enumerate(target_columns(bundle)):
        columns[target] = predictions.y_pred[:, k]
        if predictions.intervals is not None:
            columns[f"{target}_low"], columns[f"{target}_high"] = predictions.intervals[:, k].T
        if predictions.writings_std is not None:
            columns[f"{target}_writings"] = predictions.writings_std[:, k]
        if predictions.predicted_class is not None and predictions.sets is not None:
            columns[f"{target}_class"] = pd.array(predictions.predicted_class[:, k], dtype="Int64")
            labels = np.array(["none", "0", "1", "0 or 1"])
            columns[f"{target}_possible"] = np.where(ok, labels[predictions.sets[:, k] @ np.array([1, 2])], "")
    columns["in_domain"] = np.where(ok, np.where(predictions.domain.inside, "yes", "no"), "")
    columns["nearest"] = np.array(predictions.nearest, dtype=object)
    columns["similarity"], columns["distance"] = predictions.domain.similarity, predictions.domain.distance
    columns["status"] = np.array(predictions.status, dtype=object)
    if predictions.xtb is not None:
        columns["xtb"] = np.where(ok, [failure or OK for failure in predictions.xtb], "")
    return pd.DataFrame(columns)


def target_columns(bundle: Bundle) -> list[str]:
    """The columns of the targets: their names, with a suffix where a column of that name exists."""
    taken, names = set(_COLUMNS), []
    for name in bundle.targets:
        while taken & (
            columns := {name, *(f"{name}_{end}" for end in ("low", "high", "writings", "class", "possible"))}
        ):
            name = f"{name}_predicted"
        taken |= columns
        names.append(name)
    return names


def _next_chunk(rows: Iterator[InputRow], size: int) -> list[InputRow]:
    """The next rows: at most `size`, and few enough for little memory however long they are."""
    chunk: list[InputRow] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        # a line of an SDF stands for an atom or a bond, as a character of a SMILES does
        characters += (row.text.count("\n") or len(row.text)) + len(row.name)
        if len(chunk) == size or characters >= _CHUNK_CHARACTERS:
            break
    return chunk
