"""Progress of long work: a bar on a terminal, and in a log or a notebook a line a minute."""

import sys
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS = 60.0
"""Between two lines of a log."""
_SHORT = 10.0
"""Seconds before which work that ends has no line."""
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} so far, {remaining} left{postfix}"


class Progress(tqdm):
    """tqdm's bar, with its arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See tqdm."""
        self.in_log = not sys.stderr.isatty()
        if self.in_log:
            log = {"file": _Lines(sys.stderr), "mininterval": _SECONDS, "delay": _SHORT, "bar_format": _LINE}
            kwargs = {**kwargs, **log}
        super().__init__(*args, **kwargs)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Set what stands at the end; a line of a log does not come sooner for it."""
        super().set_postfix_str(s, refresh and not self.in_log)


class _Lines:
    """Writes what tqdm writes over one line as lines of their own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.last = stream, ""

    def write(self, text: str) -> None:
        """Write a line, unless it is empty or the one before."""
        line = text.strip()
        if line and line != self.last:
            self.stream.write(f"{line}\n")
            self.last = line

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()
