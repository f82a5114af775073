"""Compressed files, told by their ending (.csv.gz, .smi.xz), read as if they were not compressed."""

import bz2
import contextlib
import gzip
import hashlib
import importlib
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kflm2.errors import DataError, SettingError

ENDINGS = (".gz", ".bz2", ".xz", ".zst")
MOST_BYTES = 2 << 30
"""Of a file that is read whole: a small compressed file may hold more than the memory."""
_BLOCK = 1 << 20


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed, by its ending."""
    return path.suffix.lower() in ENDINGS


def plain(path: Path) -> Path:
    """The path without the ending of a compressed file: a.csv of a.csv.gz."""
    return path.with_suffix("") if is_compressed(path) else path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed as they are read.

    Raises:
        DataError: it is not compressed as its ending says, it is damaged, or it breaks off; also within the `with`.
        SettingError: the package for .zst files is missing.
        OSError: it cannot be opened or read.
    """
    if not is_compressed(path):
        with open(path, "rb") as file:
            yield file
        return
    with open(path, "rb") as raw:
        codec, errors = _codec(path.suffix.lower())
        try:
            with codec(raw) as file:
                yield file
        except errors as error:
            # the decompressors raise OSError too, without the number that those of the system have
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(f"{path} cannot be decompressed, it is damaged or incomplete: {error}") from None


def read_bytes(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        DataError: it cannot be decompressed, or is compressed and has more than MOST_BYTES; see opened.
    """
    if not is_compressed(path):
        return path.read_bytes()
    data = bytearray()
    with opened(path) as file:
        while block := file.read(_BLOCK):
            data += block
            if len(data) > MOST_BYTES:
                raise DataError(
                    f"{path} has more than {MOST_BYTES:,} bytes when it is decompressed, and a table is read whole;"
                    " give a part of it"
                )
    return bytes(data)


def sha256(path: Path) -> str:
    """SHA-256 of a file's decompressed bytes, as hex: that of the same file before it was compressed."""
    digest = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _codec(ending: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """What decompresses files of an ending, and the errors of damaged ones."""
    if ending == ".zst":
        zstd = _zstd()
        return zstd.ZstdFile, (OSError, EOFError, zstd.ZstdError)
    return {
        ".gz": (lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"), (OSError, EOFError, zlib.error)),
        ".bz2": (bz2.BZ2File, (OSError, EOFError)),
        ".xz": (lzma.LZMAFile, (OSError, EOFError, lzma.LZMAError)),
    }[ending]


def _zstd() -> Any:
    # of Python itself from 3.14 on
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise SettingError(
        "a .zst file needs a further package: pip install 'kflm2[zstd]'; or decompress the file and give it as it is"
    )
