"""Files at an address, such as https://host/table.csv or s3://bucket/a.smi.gz: downloaded, and read from the copy.

Addresses are taken from the command line only: one in a file of settings, in a saved model or in a request to a server
never comes here.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from kflm2.errors import DataError, SettingError
from kflm2.files import atomic, cache_folder, sha256_texts

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE | re.DOTALL)
_VERSION = ("etag", "contentmd5", "digest", "lastmodified", "mtime", "updated", "created", "size")
"""What servers say of a file that changes when it changes, in any case, without hyphens."""
_CONNECT_SECONDS, _SILENT_SECONDS = 30, 60
_LONGEST_NAME = 100


def is_address(word: str) -> bool:
    """Whether a word is an address rather than a path or a SMILES."""
    return _ADDRESS.fullmatch(word) is not None


def local_copy(address: str) -> Path:
    """The file at an address, in the user's cache; it is downloaded unless the copy there is of the same version.

    Every version has a copy of its own, so that a process that reads one is not disturbed.

    Raises:
        SettingError: an unknown protocol, or one whose package is missing.
        DataError: the address names no file, or it cannot be reached.
        OSError: the cache cannot be written.
    """
    shown, name = _shown(address), _file_name(address)
    filesystem, path = _filesystem(address)
    with _download_errors(address):
        info = filesystem.info(path)
    if info.get("type") == "directory":
        raise DataError(f"{shown} is a folder; give a file")
    version = _version(info)
    folder = cache_folder() / "downloads" / sha256_texts([address, json.dumps(version, sort_keys=True)])[:32]
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / name
    with FileLock(folder / ".lock"):
        # a size alone says too little
        if copy.is_file() and version.keys() - {"size"}:
            print(f"{shown}: unchanged, read from {copy}", file=sys.stderr)
            return copy
        with _download_errors(address), atomic(copy) as temporary:
            filesystem.get_file(path, str(temporary))
    print(f"{shown}: {copy.stat().st_size:,} bytes downloaded to {copy}", file=sys.stderr)
    return copy


def _version(info: dict[str, Any]) -> dict[str, str]:
    """What identifies the version of a file, by what its server says of it; {} where it says nothing."""
    plain = {key.lower().replace("-", ""): str(value) for key, value in info.items() if value is not None}
    return {key: plain[key] for key in _VERSION if key in plain}


def _filesystem(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it."""
    import fsspec

    protocol = address.partition("://")[0].lower()
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise SettingError(f"{_shown(address)}: {error}; or download the file, and give its path") from None
    options = _http_options(address) if protocol in ("http", "https") else {}
    with _download_errors(address):
        # as fsspec.url_to_fs does, which takes the :: of http://[::1]/ for a chain of file systems
        return kind(**kind._get_kwargs_from_urls(address), **options), kind._strip_protocol(address)


def _http_options(address: str) -> dict[str, Any]:
    """Proxies of the environment, no limit to the whole time, and the file's own bytes, packed or not."""
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
    return {
        "client_kwargs": {"timeout": timeout, "trust_env": True, "auto_decompress": False},
        "headers": {"Accept-Encoding": "identity"},
        # a signature in the address must stay as it is
        "encoded": "%" in address,
    }


@contextlib.contextmanager
def _download_errors(address: str) -> Iterator[None]:
    """Turn the errors of a download into one line."""
    shown = _shown(address)
    try:
        yield
    # each protocol's package has errors of its own, which have no common class
    except Exception as error:
        raise DataError(f"{shown} cannot be downloaded: {_reason(error).replace(address, shown)}") from None


def _reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    # fsspec calls everything that a web server answers or does not answer a missing file
    error = error.__cause__ or error
    if (status := getattr(error, "status", None)) is not None:
        return f"{status} {getattr(error, 'message', '')}".strip()
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return " ".join(str(error).split()) or type(error).__name__


def _file_name(address: str) -> str:
    """The last part of an address as the name of a file, whatever is in it."""
    protocol, _, path = address.partition("://")
    if protocol.lower() in ("http", "https"):
        path = re.split(r"[?#]", path)[0]
    _, slash, name = path.replace("\\", "/").rpartition("/")
    name = re.sub(r"[^\w.+-]", "_", name).lstrip(".")[-_LONGEST_NAME:]
    if not name or not (slash or protocol.lower() == "memory"):
        raise DataError(f"{_shown(address)} names no file; an address ends in a name such as table.csv")
    return name


def _shown(address: str) -> str:
    """An address without what may be secret: a password, and what follows a question mark."""
    return re.sub(r"://[^/@?#]*@", "://", " ".join(address.split("?")[0].split()))
