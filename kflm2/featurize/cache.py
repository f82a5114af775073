"""A content-addressed cache of features on disk.

A namespace is a folder named by the digest of everything that made its values; a row is found by the digest of the
exact text it was made from. Rows lie in safetensors shards that are written once, whole, and never changed, so readers
need no lock; a lock held while missing rows are computed keeps processes that ask for the same texts from doing the
same work twice, and is freed by the system when its holder dies.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from kflm2.featurize.ragged import Ragged
from kflm2.files import atomic, cache_folder, kept_path, write_json

# A new number when the meaning of cached values changes, so that older ones are not read.
CODE_VERSION = 1


_DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}

Compute = Callable[[list[str]], Iterable[tuple[list[str], Ragged]]]
"""Takes texts and yields groups of them with their rows."""


def text_key(text: str) -> str:
    """Digest of one text: the key of its row."""
    return hashlib.sha256(text.encode()).hexdigest()


class FeatureCache:
    """Rows (length, width) of one namespace; a row of length 0 is a row too."""

    def __init__(self, name: str, parts: dict[str, object], root: Path | None = None) -> None:
        """Open a namespace.

        Args:
            name: first word of the folder's name, for people who look into the cache.
            parts: everything the values depend on, JSON values.
            root: of all namespaces; default the user's cache folder.
        """
        self.parts = {**parts, "code_version": CODE_VERSION}
        digest = hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()
        self.folder = (root or cache_folder() / "features") / f"{name}-{digest[:32]}"

    def get(self, texts: list[str], compute: "Compute") -> Ragged:
        """Rows of the texts, in memory; see rows."""
        return self.rows(texts, compute).take(np.arange(len(texts)))

    def rows(self, texts: list[str], compute: "Compute") -> "StoredRows":
        """Rows of the texts, in their order, left on disk; those that are not there are computed and kept first.

        Args:
            texts: n texts, repeats allowed.
            compute: takes the missing texts, each once, and yields groups of them with their rows; each group is
                kept as soon as it is there, so that a killed run goes on where it was.

        Returns:
            n rows.
        """
        keys = {text: text_key(text) for text in dict.fromkeys(texts)}
        found = self._index()
        if any(key not in found for key in keys.values()):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock(sorted(keys.values())):
                found = self._index()
                if missing := [text for text, key in keys.items() if key not in found]:
                    if not (self.folder / "namespace.json").exists():
                        write_json(self.folder / "namespace.json", self.parts)
                    for group, rows in compute(missing):
                        self._write([keys[text] for text in group], rows)
                    found = self._index()
        return StoredRows.of([found[keys[text]] for text in texts])

    @contextlib.contextmanager
    def _lock(self, keys: list[str]) -> Iterator[None]:
        """Held by one of the processes that ask for the same texts; those that ask for others go on beside it."""
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
        (self.folder / "locks").mkdir(exist_ok=True)
        lock = FileLock(self.folder / "locks" / name)
        try:
            lock.acquire(timeout=2)
        except Timeout:
            print(f"waiting for another process that computes the same features ({self.folder.name})", flush=True)
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
        """Key -> shard and row in it. The first shard by name wins, so that every reader reads the same one."""
        found: dict[str, tuple[Path, int]] = {}
        for path in self._shards():
            with safe_open(path, framework="numpy") as shard:
                for row, key in enumerate(shard.get_tensor("keys")):
                    found.setdefault(key.tobytes().hex(), (path, row))
        return found

    def _shards(self) -> Iterator[Path]:
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            try:
                with safe_open(path, framework="numpy"):
                    pass
            except SafetensorError:
                # written whole, yet unreadable: the disk lost it. Its rows are computed again.
                os.unlink(path)
            else:
                yield path


class StoredRows:
    """Rows that stay on disk, memory-mapped: the same as a Ragged to those who take rows from it."""

    def __init__(self, shards: tuple[Path, ...], places: np.ndarray) -> None:
        """Say where rows lie.

        Args:
            shards: files of one namespace.
            places: (n, 3) shard, first and last + 1 entry of each row.
        """
        self.shards, self.places = shards, places
        self._slices = [safe_open(path, framework="numpy").get_slice("values") for path in shards]

    @staticmethod
    def of(places: list[tuple[Path, int]]) -> "StoredRows":
        """From a shard's path and the row in it, for each row."""
        shards = tuple(dict.fromkeys(path for path, _ in places))
        bounds = {}
        for path in shards:
            with safe_open(path, framework="numpy") as shard:
                bounds[path] = shard.get_tensor("ptr")
        number = {path: i for i, path in enumerate(shards)}
        where = [(number[path], bounds[path][row], bounds[path][row + 1]) for path, row in places]
        return StoredRows(shards, np.array(where, dtype=np.int64).reshape(-1, 3))

    def __len__(self) -> int:
        return len(self.places)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) entries of each row."""
        return self.places[:, 2] - self.places[:, 1]

    @property
    def width(self) -> int:
        """Columns of the values."""
        return int(self._slices[0].get_shape()[1])

    def subset(self, rows: np.ndarray) -> "StoredRows":
        """Some of the rows, still on disk."""
        return StoredRows(self.shards, self.places[rows])

    def take(self, rows: np.ndarray) -> Ragged:
        """The rows in the order asked for, read into memory."""
        return Ragged.pack([self._row(*place) for place in self.places[rows].tolist()])

    def _row(self, shard: int, first: int, last: int) -> np.ndarray:
        if first == last:  # safetensors refuses to cut nothing out of an empty tensor
            return np.zeros((0, self.width), dtype=_DTYPES[self._slices[shard].get_dtype()])
        return self._slices[shard][first:last]


def keep_arrays(
    name: str, parts: dict[str, object], compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays that belong together, read from the cache, or computed and kept there; see kept_path."""
    path = kept_path(name, {**parts, "code_version": CODE_VERSION}, ".safetensors")
    if path.is_file():
        # a file that the disk lost is as good as none
        with contextlib.suppress(SafetensorError):
            return load_file(path)
    arrays = compute()
    with atomic(path) as temporary:
        save_file(arrays, temporary)
    return arrays
