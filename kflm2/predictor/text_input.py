"""Text files of any size, compressed or not: their encoding, and lines that cannot fill the memory."""

import codecs
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from kflm2.data import compression
from kflm2.data.tables import refuse_foreign
from kflm2.errors import DataError

LONGEST = 1 << 26
"""Characters of a molecule's lines in the input."""
_BLOCK = 1 << 16


class Lines:
    """The lines of a text; a molecule that never ends, as of a small compressed file, is refused."""

    def __init__(self, file: TextIO, source: Path | str) -> None:
        """Set the text, and its name for errors."""
        self._file, self._source, self._characters = file, source, 0

    def next_molecule(self) -> None:
        """Say that the lines from here on are of another molecule."""
        self._characters = 0

    def __iter__(self) -> Iterator[str]:
        """Lines with their line breaks.

        Raises:
            DataError: the lines of a molecule have more than LONGEST characters.
        """
        while line := self._file.readline(LONGEST + 1):
            self._characters += len(line)
            if self._characters > LONGEST:
                raise DataError(f"{self._source}: a molecule of more than {LONGEST:,} characters; it cannot be read")
            yield line


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The text of a file, with its line breaks as they are.

    Raises:
        DataError: it cannot be decompressed, see compression.opened; or it is no text.
    """
    encoding = _encoding(path)
    with (
        compression.opened(path) as raw,
        io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="") as file,
    ):
        yield file


def _encoding(path: Path) -> str:
    """UTF-8, UTF-16 with a byte order mark, or else Windows' Latin-1 (cp1252), as for tables in kflm2.data.tables."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with compression.opened(path) as file:
        block = file.read(_BLOCK)
        refuse_foreign(path, block)
        if block.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "utf-16"
        try:
            while block:
                decoder.decode(block)
                block = file.read(_BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"
