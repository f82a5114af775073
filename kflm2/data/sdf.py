"""SDF files as text: the blocks of their molecules, and the properties in a block."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kflm2.data.compression import plain

_PROPERTY = re.compile(r"^>[^<\n]*<([^>\n]*)>[^\n]*\n(.*?)(?=^[ \t]*$|^>|\Z)", re.MULTILINE | re.DOTALL)


def is_sdf(path: Path) -> bool:
    """Whether a file is an SDF, also a compressed one, by its ending."""
    return plain(path).suffix.lower() in (".sdf", ".sd")


def blocks(lines: Iterable[str]) -> Iterator[str]:
    """The molecules, each as text up to its line $$$$, which is left out; blank lines at the end are no molecule."""
    block: list[str] = []
    for line in lines:
        if line.startswith("$$$$"):
            yield "".join(block)
            block = []
        else:
            block.append(line)
    if any(line.strip() for line in block):
        yield "".join(block)


def title(block: str) -> str:
    """The name of the molecule: the first line."""
    return block.partition("\n")[0].strip()


def properties(block: str) -> dict[str, str]:
    """Name -> value of the data items after the molecule, values of several lines with their line breaks."""
    _, _, items = block.replace("\r\n", "\n").partition("\nM  END")
    return {name.strip(): value.rstrip("\n") for name, value in _PROPERTY.findall(items)}
