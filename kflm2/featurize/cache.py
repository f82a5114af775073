"""A content-addressed cache of features on disk.

A namespace is a folder named by the digest of everything its values depend on; the key of a row is the digest of its
exact text. Rows are stored in safetensors shards that are written once, atomically, and never changed, so readers need
no lock. A lock is held while missing rows are computed, so that processes that need the same texts do not compute them
twice; the system releases it when its process dies.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from kflm2.featurize.ragged import Ragged
from kflm2.files import atomic, cache_folder, cached_path, write_json

# Increase it when the meaning of cached values changes, so that older values are not read.
CODE_VERSION = 1


_DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}

Compute = Callable[[list[str]], Iterable[tuple[list[str], Ragged]]]
"""Function from texts to groups of them with their rows."""


def text_key(text: str) -> str:
    """Digest of one text: the key of its row."""
    return hashlib.sha256(text.encode()).hexdigest()


class FeatureCache:
    """Rows (length, width) of one namespace; rows of length 0 are allowed."""

    def __init__(self, name: str, parts: dict[str, object], root: Path | None = None) -> None:
        """Open a namespace.

        Args:
            name: prefix of the folder's name, for people who look into the cache.
            parts: everything the values depend on, as JSON values.
            root: folder of all namespaces; default is the user's cache folder.
        """
        self.parts = {**parts, "code_version": CODE_VERSION}
        digest = hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()
        self.folder = (root or cache_folder() / "features") / f"{name}-{digest[:32]}"

    def get(self, texts: list[str], compute: "Compute") -> Ragged:
        """Rows of the texts, in memory; see `rows`."""
        return self.rows(texts, compute).take(np.arange(len(texts)))

    def rows(self, texts: list[str], compute: "Compute") -> "StoredRows":
        """Rows of the texts, in their order, on disk; missing rows are computed and written first.

        Args:
            texts: n texts, repeats allowed.
            compute: takes the missing texts, each once, and yields groups of them with their rows; each group is
                written at once, so that a killed process loses only the group it was computing.

        Returns:
            n rows.
        """
        keys = {text: text_key(text) for text in dict.fromkeys(texts)}
        index = self._index()
        if any(key not in index for key in keys.values()):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(sorted(keys.values())):
                index = self._index()
                if missing := [text for text, key in keys.items() if key not in index]:
                    if not (self.folder / "namespace.json").exists():
                        write_json(self.folder / "namespace.json", self.parts)
                    for group, rows in compute(missing):
                        self._write([keys[text] for text in group], rows)
                    index = self._index()
        return StoredRows.from_index([index[keys[text]] for text in texts])

    @contextlib.contextmanager
    def _lock(self, keys: list[str]) -> Iterator[None]:
        """Lock among the processes that need the same texts; processes that need other texts do not wait."""
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
        (self.folder / "locks").mkdir(exist_ok=True)
        lock = FileLock(self.folder / "locks" / name)
        try:
            lock.acquire(timeout=2)
        except Timeout:
            message = f"waiting for another process that computes the same features ({self.folder.name})"
            print(message, file=sys.stderr, flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _write(self, keys: list[str], rows: Ragged) -> None:
        shard = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
        arrays: dict[str, np.ndarray] = {
            "keys": np.frombuffer(bytes.fromhex("".join(keys)), dtype=np.uint8).reshape(-1, 32),
            "ptr": rows.ptr.astype(np.int64),
            "values": np.ascontiguousarray(rows.values),
        }
        with atomic(self.folder / f"{shard}.safetensors") as temporary:
            save_file(arrays, temporary)

    def _index(self) -> dict[str, tuple[Path, int]]:
        """Key -> shard and row in it. The first shard by name wins, so that all processes read the same one."""
        index: dict[str, tuple[Path, int]] = {}
        for path in self._shards():
            with safe_open(path, framework="numpy") as shard:
                for row, key in enumerate(shard.get_tensor("keys")):
                    index.setdefault(key.tobytes().hex(), (path, row))
        return index

    def _shards(self) -> Iterator[Path]:
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except SafetensorError:
                # shards are written atomically, so the file was damaged later; its rows are computed again
                os.unlink(path)
            else:
                yield path


class StoredRows:
    """Rows that stay on disk, memory-mapped, with the methods of Ragged that select rows."""

    def __init__(self, shards: tuple[Path, ...], locations: np.ndarray) -> None:
        """Open the shards.

        Args:
            shards: files of one namespace.
            locations: (n, 3) index of the shard, first and last + 1 entry of each row.
        """
        self.shards, self.locations = shards, locations
        self._slices = [safe_open(path, framework="numpy").get_slice("values") for path in shards]

    def __reduce__(self) -> tuple[type["StoredRows"], tuple[tuple[Path, ...], np.ndarray]]:
        """Another process opens the shards itself."""
        return StoredRows, (self.shards, self.locations)

    @staticmethod
    def from_index(entries: list[tuple[Path, int]]) -> "StoredRows":
        """From the path of the shard and the row in it, for each row."""
        shards = tuple(dict.fromkeys(path for path, _ in entries))
        bounds = {}
        for path in shards:
            with safe_open(path, framework="numpy") as shard:
                bounds[path] = shard.get_tensor("ptr")
        shard_index = {path: i for i, path in enumerate(shards)}
        locations = [(shard_index[path], bounds[path][row], bounds[path][row + 1]) for path, row in entries]
        return StoredRows(shards, np.array(locations, dtype=np.int64).reshape(-1, 3))

    def __len__(self) -> int:
        return len(self.locations)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) number of entries of each row."""
        return self.locations[:, 2] - self.locations[:, 1]

    @property
    def width(self) -> int:
        """Number of columns of the values."""
        return int(self._slices[0].get_shape()[1])

    def subset(self, rows: np.ndarray) -> "StoredRows":
        """Selected rows, still on disk."""
        return StoredRows(self.shards, self.locations[rows])

    def take(self, rows: np.ndarray) -> Ragged:
        """Selected rows, in the order of `rows`, read into memory."""
        return Ragged.pack([self._row(*location) for location in self.locations[rows].tolist()])

    def _row(self, shard: int, first: int, last: int) -> np.ndarray:
        if first == last:  # safetensors cannot take an empty slice of an empty tensor
            return np.zeros((0, self.width), dtype=_DTYPES[self._slices[shard].get_dtype()])
        return self._slices[shard][first:last]


def cached_arrays(
    name: str, parts: dict[str, object], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Named arrays, read from the cache or computed and written there; see cached_path."""
    path = cached_path(name, {**parts, "code_version": CODE_VERSION}, ".safetensors")
    if path.is_file():
        # a damaged file is treated as missing
        with contextlib.suppress(SafetensorError):
            return load_file(path)
    arrays = compute()
    with atomic(path) as temporary:
        save_file(arrays, temporary)
    return arrays
