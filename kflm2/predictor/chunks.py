"""Rows of the input to rows of the output, a chunk at a time, in this process or in others."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from kflm2.errors import MoleculeError
from kflm2.predictor.readers import InputRow, MoleculeReader

if TYPE_CHECKING:  # a process that only cuts the input into chunks starts sooner without PyTorch
    import torch

    from kflm2.predictor.featurizer import MoleculeFeaturizer, ReadMolecules

CHUNK = 256
"""Rows in a chunk. A resumed run and a share use the same chunks as the whole, and so write the same bits."""
CHUNK_OF_XTB = 16
"""The same where quantum chemistry is computed, which takes a thousand times the time."""
_CHUNK_CHARACTERS = 1 << 17
"""Characters of input after which a chunk ends too: ten times those of 256 ordinary SMILES."""


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
    read: "ReadMolecules"


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
    featurizer: "MoleculeFeaturizer"

    def __call__(self, chunk: Chunk) -> ReadChunk:
        """Read the molecules."""
        smiles, problems = [], {}
        for i, row in enumerate(chunk.rows):
            try:
                smiles.append(self.reader.smiles(row))
            except MoleculeError as error:
                smiles.append("")
                problems[i] = str(error)
        # a row that does not fit the header has no cells, but a problem
        blank = ("",) * len(self.reader.features)
        read = self.featurizer(smiles, [row.features or blank for row in chunk.rows] if blank else None)
        for i, problem in problems.items():
            read.status[i] = problem
        return ReadChunk(chunk, smiles, read)


@dataclass(frozen=True)
class ChunkModel(ABC):
    """Makes the output rows of a chunk with the networks of a saved model."""

    read: ChunkReader

    DOING: ClassVar[str]
    """What it does, for a progress bar."""
    DONE: ClassVar[str]
    """What the molecules then are, for the summary."""

    @property
    @abstractmethod
    def device(self) -> "torch.device":
        """Of the LLM and the networks."""

    @abstractmethod
    def table(self, done: ReadChunk) -> pd.DataFrame:
        """The output of a chunk, a row per molecule; one column is `status`."""

    def arrow_types(self) -> dict[str, Any]:
        """Columns of the table that hold neither numbers nor text, with their Arrow types."""
        return {}

    def __call__(self, chunk: Chunk) -> tuple[Chunk, pd.DataFrame]:
        """The chunk, and the output table of its rows."""
        return self.finish(self.read(chunk))

    def finish(self, done: ReadChunk) -> tuple[Chunk, pd.DataFrame]:
        """The same of a chunk whose molecules have been read."""
        chunk, frame = done.chunk, self.table(done)
        if self.read.reader.named:
            frame.insert(0, "name", np.array([row.name for row in chunk.rows], dtype=object))
        self._insert_kept(frame, chunk)
        frame.insert(0, "row", np.arange(chunk.start + 1, chunk.start + len(chunk.rows) + 1))
        return chunk, frame

    def _insert_kept(self, frame: pd.DataFrame, chunk: Chunk) -> None:
        """Copy the other columns of the input, after the SMILES."""
        place, taken = frame.columns.get_loc("smiles"), {"row", *frame.columns}
        assert isinstance(place, int)
        for i, name in enumerate(self.read.reader.keep):
            while name in taken:
                name += "_given"
            taken.add(name)
            # a row that does not fit the header has no cells
            cells = [row.cells[i] if row.cells else "" for row in chunk.rows]
            frame.insert(place := place + 1, name, np.array(cells, dtype=object))

    @property
    def chunk_size(self) -> int:
        """Rows of a chunk, at most."""
        return CHUNK_OF_XTB if "xtb" in self.read.featurizer.descriptors else CHUNK

    def stream(self, chunks: Iterable[Chunk], jobs: int) -> Generator[tuple[Chunk, pd.DataFrame], None, None]:
        """Chunks in order; see run_stream for the processes.

        On a CPU each process does all of a chunk, with one thread: no part of the work waits for another, and the bits
        do not depend on the number of processes. With a GPU the processes read the molecules, and this one does the
        rest.
        """
        from kflm2.trainers.jobs import run_stream

        if self.device.type == "cpu":
            yield from run_stream(self, chunks, jobs, forked=True)
        else:
            yield from map(self.finish, run_stream(self.read, chunks, jobs, forked=False))


def _next_chunk(rows: Iterator[InputRow], size: int) -> list[InputRow]:
    """The next rows: at most `size`, and few enough for little memory however long they are."""
    chunk: list[InputRow] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        # a line of an SDF stands for an atom or a bond, as a character of a SMILES does
        characters += row.text.count("\n") or len(row.text)
        characters += len(row.name) + sum(map(len, (*row.cells, *row.features)))
        if len(chunk) == size or characters >= _CHUNK_CHARACTERS:
            break
    return chunk
