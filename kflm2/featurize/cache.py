"""A content-addressed cache of features on disk.

A namespace is a folder named by the digest of everything that made its values; a row is found by the digest of the
exact text it was made from. Rows lie in safetensors shards that are written once, whole, and never changed, so readers
need no lock; a lock held while missing rows are computed keeps two processes from doing the same work, and is freed by
the system when its holder dies.
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
from safetensors.numpy import save_file

from kflm2.featurize.ragged import Ragged
from kflm2.files import atomic, cache_folder, write_json

# A new number when the meaning of cached values changes, so that older ones are not read.
CODE_VERSION = 1


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

    def get(
        self,
        texts: list[str],
        compute: Callable[[list[str]], Iterable[tuple[list[str], Ragged]]],
    ) -> Ragged:
        """Rows of the texts, in their order; those not on disk are computed, kept and read back.

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
            with self._lock():
                found = self._index()
                if missing := [text for text, key in keys.items() if key not in found]:
                    if not (self.folder / "namespace.json").exists():
                        write_json(self.folder / "namespace.json", self.parts)
                    for group, rows in compute(missing):
                        self._write([keys[text] for text in group], rows)
                    found = self._index()
        return self._read([found[keys[text]] for text in texts])

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        lock = FileLock(self.folder / "lock")
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

    @staticmethod
    def _read(places: list[tuple[Path, int]]) -> Ragged:
        loaded: dict[Path, Ragged] = {}
        for path, _ in places:
            if path not in loaded:
                with safe_open(path, framework="numpy") as shard:
                    loaded[path] = Ragged(shard.get_tensor("values"), shard.get_tensor("ptr"))
        rows = []
        for path, row in places:
            shard_rows = loaded[path]
            rows.append(shard_rows.values[shard_rows.ptr[row] : shard_rows.ptr[row + 1]])
        return Ragged.pack(rows)
