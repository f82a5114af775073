"""A row of output for each row of the input, computed by the machines of a Ray cluster, as a folder of Parquet files.

One task, on the machine that the command runs on, reads the input chunk by chunk; actors, one for each core or GPU of
the cluster, make the rows of a chunk; the command writes the files. So the cluster needs the model (and an LLM that is
not in the registry) at the same path on every machine, and of input and output nothing. What a machine that is lost had
in work is computed again by the others: that is Ray's doing, as is all that moves between machines.
"""

import contextlib
import logging
import os
import pickle
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from kflm2 import resources
from kflm2.config.base import StreamConfig
from kflm2.errors import DataError, KFLM2Error, SettingError
from kflm2.files import read_json, write_json
from kflm2.predictor import formats
from kflm2.predictor.chunks import Chunk, ChunkModel, ChunkReader, ReadChunk, chunks
from kflm2.predictor.readers import MoleculeReader
from kflm2.progress import Progress

PARTITION = 16_384
"""Rows from which a file is full; it ends with the chunk that fills it."""
_COMMAND = "_command.json"
"""File beside the partitions that says which command writes them; programs that read such folders skip its name."""


class Build(Protocol):
    """Loads the model of a stage."""

    def __call__(self, config: Any, reader: MoleculeReader | None = None) -> ChunkModel:
        """The model, for the rows of a reader; None: of the input that the settings name."""


def write_folder(config: StreamConfig, build: Build, settings: Sequence[object]) -> int:
    """Write one output row per input row to a folder of Parquet files; what is there is not computed again.

    The files are named by their first row, and have the rows in order.

    Args:
        config: checked.
        build: loads the model; a function of a module, which each actor calls once.
        settings: see output.write_rows.

    Returns:
        Number of rows without a result.

    Raises:
        KFLM2Error: the input cannot be read, or the output not be written, to its end.
    """
    # not above: the task that reads the input needs no PyTorch
    from kflm2.predictor.featurizer import OK
    from kflm2.predictor.output import command_digest, locked, print_summary

    out, start = config.out, time.perf_counter()
    assert out is not None
    # the actors have working folders of their own
    llm = config.llm and (str(Path(config.llm).resolve()) if Path(config.llm).exists() else config.llm)
    # a model that comes along is where kflm2 is, on each machine
    named = resources.saved_model(config.model) != config.model
    config = replace(config, model=config.model if named else config.model.resolve(), llm=llm)
    with _cluster():
        # this process reads no molecules; the GPU of its machine is an actor's
        model = build(replace(config, device="cpu"))
        reader = model.read.reader
        if reader.path is not None:  # the task that reads it has a working folder of its own
            reader = replace(reader, path=reader.path.resolve())
        with locked(out):
            _begin(out, command_digest(config, reader, settings))
            count = reader.count()
            assert count is not None
            if missing := count - sum(_statuses(out).values()):
                source = _Chunks(reader, model.chunk_size, PARTITION, frozenset(_partitions(out)))
                _write_missing(config, build, model, source, missing)
            statuses = _statuses(out)
    if sum(statuses.values()) != count:
        raise KFLM2Error(f"{out} has {sum(statuses.values())} rows and the input {count}")
    print_summary(statuses, model.DONE, time.perf_counter() - start, out)
    return count - statuses[OK]


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """The cluster that $RAY_ADDRESS names, else one of this machine's cores."""
    # before Ray is imported: it reports nothing to its makers, and keeps its C++ messages in its own logs
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise SettingError(
            f'--engine ray needs the package {error.name}: pip install "kflm2[ray]" -c constraints.txt'
        ) from None
    try:
        # without an address Ray would join what somebody else started on this machine
        address = os.environ.get("RAY_ADDRESS") or "local"
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:  # unreachable, no address, or of another version
        raise SettingError(f"Ray: {str(error).splitlines()[0]}") from None
    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, KFLM2Error):
            raise cause from None
        raise KFLM2Error(f"Ray: {(str(error).strip().splitlines() or [type(error).__name__])[-1]}") from error
    finally:
        ray.shutdown()


def _begin(out: Path, digest: str) -> None:
    """Create the folder of the partitions, or check that it is of the same command.

    Raises:
        DataError: the folder has other content.
    """
    out.mkdir(exist_ok=True)
    if (out / _COMMAND).exists():
        if read_json(out / _COMMAND, "partitions", DataError) != {"of": digest, "rows": PARTITION}:
            raise DataError(f"{out} has rows of another command, model or input; give another folder")
    elif any(out.iterdir()):
        raise DataError(f"{out} is not empty; give another folder")
    write_json(out / _COMMAND, {"of": digest, "rows": PARTITION})


def _partition(out: Path, first: int) -> Path:
    """The file of the rows from number `first` on, which is counted from 1."""
    return out / f"rows-{first:012d}.parquet"


def _partitions(out: Path) -> dict[int, Path]:
    """The complete files, in order, by their first row."""
    return {int(path.stem.partition("-")[2]): path for path in sorted(out.glob("rows-*.parquet"))}


def _statuses(out: Path) -> Counter[str]:
    """How many rows of the files have each status."""
    from pyarrow import compute, parquet

    statuses: Counter[str] = Counter()
    for path in _partitions(out).values():
        counted = compute.value_counts(parquet.read_table(path, columns=["status"])["status"])
        statuses.update({pair["values"]: pair["counts"] for pair in counted.to_pylist()})
    return statuses


def _write_missing(config: StreamConfig, build: Build, model: ChunkModel, source: "_Chunks", missing: int) -> None:
    """Compute and write the partitions that are not there, which have `missing` rows."""
    out = config.out
    assert out is not None
    header = _encoder(model)(model(Chunk(0, []))[1], True)
    # chunks come in the order in which they are ready; few partitions are incomplete at a time
    waiting: dict[int, dict[int, bytes]] = defaultdict(dict)
    with Progress(total=missing, desc=model.DOING, unit="mol") as bar:
        for done in _computed(config, build, source, replace(model.read, reader=source.reader)):
            pieces = waiting[done["first"]]
            pieces[done["start"]] = done["rows"]
            if len(pieces) == done["chunks"]:
                rows = b"".join(pieces[start] for start in sorted(pieces))
                formats.write_parquet(header + rows, _partition(out, done["first"]))
                del waiting[done["first"]]
            bar.update(done["count"])


def _encoder(model: ChunkModel) -> formats.Encode:
    return formats.encoder(Path("rows.parquet"), model.arrow_types())


def _computed(config: StreamConfig, build: Build, source: "_Chunks", read: ChunkReader) -> Iterator[dict[str, Any]]:
    """The output of each chunk, as it becomes ready; see _Actor."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a chunk a task: Ray would put many small ones together
    resources = ray.cluster_resources()
    gpus = 0 if config.device == "cpu" else int(resources.get("GPU", 0))
    if config.device == "cuda" and not gpus:
        raise SettingError("device cuda: no machine of the Ray cluster has a GPU; use --device cpu")
    actors = config.jobs or gpus or max(1, int(resources.get("CPU", 1)))
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    # a core for each actor leaves none for the task that reads the input, which mostly waits for them
    data = ray.data.from_items([0], override_num_blocks=1).map_batches(source, num_cpus=0, label_selector=here)
    if gpus:  # the cores read the molecules, and the GPUs do the rest
        data = data.map_batches(_Read(read))
    data = data.map_batches(
        _Actor,
        fn_constructor_args=(build, replace(config, device="cuda" if gpus else "cpu"), source.reader),
        # fewer at the end: an actor that was lost with its machine then finds a core, and its chunks are computed there
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=actors, initial_size=actors, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=1,
        num_gpus=1 if gpus else 0,
    )
    batches: Iterator[Any] = iter(data.iter_batches(batch_size=None, batch_format="pyarrow"))
    for batch in batches:
        yield from batch.to_pylist()


class _Chunks:
    """Reads the chunks of the partitions that are not there; one task does it for the whole input.

    A batch has one row: the `first` row of the partition, the number of its `chunks`, and the chunk itself, `task`.
    """

    def __init__(self, reader: MoleculeReader, size: int, rows: int, there: frozenset[int]) -> None:
        self.reader, self.size, self.rows, self.there = reader, size, rows, there

    def __call__(self, _: object) -> Iterator[dict[str, list[Any]]]:
        for partition in self.partitions():
            first = partition[0].start + 1
            if first not in self.there:
                for chunk in partition:
                    yield {"first": [first], "chunks": [len(partition)], "task": [pickle.dumps(chunk)]}

    def partitions(self) -> Iterator[list[Chunk]]:
        """The chunks of each partition; they depend on the input only, so that every run has the same."""
        partition: list[Chunk] = []
        for chunk in chunks(self.reader, 0, None, self.size):
            partition.append(chunk)
            if chunk.start + len(chunk.rows) - partition[0].start >= self.rows:
                yield partition
                partition = []
        if partition:
            yield partition


class _Read:
    """Reads the molecules of chunks on a core, for the actor of a GPU."""

    def __init__(self, read: ChunkReader) -> None:
        self.read = read

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "task": [pickle.dumps(self.read(_unpickled(task))) for task in batch["task"]]}


class _Actor:
    """Makes the rows of chunks, with a model that it loads once.

    Of each chunk come back `first` and `chunks` of its partition, its own `start`, the `count` of its rows, and the
    `rows` as messages of an Arrow stream.
    """

    def __init__(self, build: Build, config: StreamConfig, reader: MoleculeReader) -> None:
        self.model = build(config, reader)
        self.encode = _encoder(self.model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        done = [self._rows(_unpickled(task)) for task in batch["task"]]
        return {
            "first": batch["first"],
            "chunks": batch["chunks"],
            "start": [chunk.start for chunk, _ in done],
            "count": [len(table) for _, table in done],
            "rows": [self.encode(table, False) for _, table in done],
        }

    def _rows(self, task: Chunk | ReadChunk) -> tuple[Chunk, pd.DataFrame]:
        return self.model(task) if isinstance(task, Chunk) else self.model.finish(task)


def _unpickled(task: bytes) -> Any:
    return pickle.loads(task)  # noqa: S301, it comes from a process of our own
