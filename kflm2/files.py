"""Atomic writes, readers with one-line errors, digests, and the folders of the project and its cache."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kflm2.errors import KFLM2Error

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary file next to path, which replaces path on success and is removed on failure.

    A reader therefore sees the old file or the new one, never a part of one, also after a crash.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # same suffix: writers such as matplotlib and pandas choose the format by it
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "r+b") as file:  # Windows writes out only what is open for writing
            os.fsync(file.fileno())
        # mkstemp makes files private; set the mode that an ordinary open() would have set
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to path, which replaces path on success and is removed on failure.

    Raises:
        KFLM2Error: path cannot be replaced; it is as it was, and the new folder is kept.
    """
    temporary, old = (path.with_name(f".{path.name}-{what}") for what in ("making", "old"))
    if old.exists() and not path.exists():  # of a process that was killed between the two renames
        old.rename(path)
    for folder in (temporary, old):
        shutil.rmtree(folder, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        # not removed: a file in it may be open elsewhere, and a part of it would be left
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise KFLM2Error(f"{path} cannot be replaced ({error.strerror}); the new one is kept as {temporary}") from None
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write value as indented JSON, atomically.

    Raises:
        ValueError: it contains NaN or infinity, which are not JSON.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table atomically, floats with all their digits."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_toml(path: Path, what: str, error: type[KFLM2Error]) -> dict[str, Any]:
    """A TOML file of the user.

    Args:
        path: of the file.
        what: name of its content, for the error message.
        error: class of the error, with a message of one line, if the file cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{what} {path}: {problem.strerror or problem}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{what} {path} is not TOML: {problem}") from None


def read_json(path: Path, what: str, error: type[KFLM2Error]) -> dict[str, Any]:
    """A JSON object of the user; see read_toml."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{what} {path}: {problem.strerror or problem}") from None
    except ValueError as problem:
        raise error(f"{what} {path} is not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise error(f"{what} {path}: not an object of JSON")
    return value


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_texts(texts: Iterable[str]) -> str:
    """SHA-256 of a sequence of texts, as hex; lengths are included, so that ["ab", "c"] and ["a", "bc"] differ."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Folder of converted LLMs and features: $KFLM2_CACHE, else $XDG_CACHE_HOME/kflm2, else ~/.cache/kflm2."""
    if folder := os.environ.get("KFLM2_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kflm2"


def cached_path(name: str, parts: dict[str, object], suffix: str) -> Path:
    """Path of a value's file in the cache.

    Args:
        name: prefix of the file's name, for people who look into the cache.
        parts: everything the value depends on, as JSON values.
        suffix: of the file's name.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "features" / f"{name}-{digest[:32]}{suffix}"


def cached_json(name: str, parts: dict[str, object], compute: Callable[[], Any]) -> Any:
    """A JSON value, read from the cache or computed and written there; see cached_path."""
    path = cached_path(name, parts, ".json")
    # a damaged file is treated as missing
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    value = compute()
    write_text(path, json.dumps(value))
    return value


def project_folder() -> Path:
    """The checkout that contains this package, else the working folder (an installed wheel has no dataset/)."""
    checkout = Path(__file__).resolve().parents[1]
    # not any folder of this name: there is a package `dataset`
    return checkout if (checkout / "dataset" / "README.md").is_file() else Path.cwd()
