"""Files that are whole or absent, digests, and the places where files live."""

import contextlib
import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kflm2.errors import KFLM2Error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary name beside path; on success it takes path's place, on failure it is removed.

    A reader therefore sees the old file or the new one, never half of one, also after a crash.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays: writers such as matplotlib and pandas choose a format by it
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; give what an ordinary open() would have given
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write text atomically, UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write value as indented JSON, atomically; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_toml(path: Path, what: str, error: type[KFLM2Error]) -> dict[str, Any]:
    """A table of the user's.

    Args:
        path: TOML.
        what: it is, for the message.
        error: raised in one line where it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{what} {path}: {problem.strerror or problem}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{what} {path} is not TOML: {problem}") from None


def read_json(path: Path, what: str, error: type[KFLM2Error]) -> dict[str, Any]:
    """An object of JSON; see read_toml."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{what} {path}: {problem.strerror or problem}") from None
    except ValueError as problem:
        raise error(f"{what} {path} is not JSON: {problem}") from None
    if not isinstance(found, dict):
        raise error(f"{what} {path}: not an object of JSON")
    return found


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_texts(texts: Iterable[str]) -> str:
    """SHA-256 of a sequence of texts, as hex; each text's length enters, so that joins cannot collide."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where converted LLMs and features are kept: $KFLM2_CACHE, else $XDG_CACHE_HOME/kflm2, else ~/.cache/kflm2."""
    if own := os.environ.get("KFLM2_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kflm2"


def kept_path(name: str, parts: dict[str, object], suffix: str) -> Path:
    """The cache's file of a value.

    Args:
        name: first word of the file's name, for people who look into the cache.
        parts: everything the value depends on, JSON values.
        suffix: of the file's name.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "features" / f"{name}-{digest[:32]}{suffix}"


def keep_json(name: str, parts: dict[str, object], compute: Callable[[], Any]) -> Any:
    """A JSON value, read from the cache, or computed and kept there; see kept_path."""
    path = kept_path(name, parts, ".json")
    # a file that the disk lost is as good as none
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    value = compute()
    write_text(path, json.dumps(value))
    return value


def project_folder() -> Path:
    """The checkout this package lies in, else the working folder (an installed wheel carries no dataset/)."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "dataset").is_dir() else Path.cwd()
