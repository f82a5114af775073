"""Text, boxes and lines on an RDKit drawing, in pixels, y downwards.

RDKit writes the characters of a string too close together, reads <sub> and <sup> as markup, and has only ASCII. Here
each character is drawn separately, literally, at the position given by the font's metrics.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from matplotlib.ft2font import FT2Font, LoadFlags
from rdkit import RDConfig
from rdkit.Geometry import Point2D

Colour = tuple[float, float, float]

_FONT = Path(RDConfig.RDDataDir) / "Fonts" / "Telex-Regular.ttf"
_EM = 1000


class Canvas:
    """Draws on an RDKit drawing."""

    def __init__(self, drawer: Any) -> None:
        self.drawer = drawer

    def write(self, text: str, x: float, baseline: float, size: float, colour: Colour, align: float = 0.0) -> None:
        """Write one line.

        Args:
            text: characters other than ASCII become question marks.
            x: of the left end, the middle or the right end of the text.
            baseline: y of the text's baseline.
            size: of the font.
            colour: of the text.
            align: 0, 0.5 or 1: x is the left end, the middle or the right end.
        """
        text = printable(text)
        self.drawer.SetColour(colour)
        self.drawer.SetFontSize(size)
        x -= align * self.width(text, size)
        for character in text:
            advance, middle, top = _glyph_metrics(character)
            if not character.isspace():
                # RDKit centres a character: its middle at x, half of its height above the baseline at y
                centre = Point2D(x + middle * size, baseline - top / 2 * size)
                self.drawer.DrawString(character, centre, 0, True)
            x += advance * size

    @staticmethod
    def width(text: str, size: float) -> float:
        """Width of a line of text."""
        return size * sum(_glyph_metrics(character)[0] for character in printable(text))

    def shortened(self, text: str, size: float, most_width: float) -> str:
        """The text, or as much of it as fits into `most_width`, with three dots."""
        if self.width(text, size) <= most_width:
            return text
        return f"{self._fitting(text, size, most_width - self.width('...', size))}..."

    def wrapped(self, text: str, size: float, most_width: float, most_lines: int) -> list[str]:
        """The text in lines of at most `most_width`, broken at blanks where possible; the last may be shortened."""
        lines = [""]
        for word in re.findall(r"\S+\s*", text):
            if lines[-1] and self.width((lines[-1] + word).rstrip(), size) > most_width:
                lines.append("")
            lines[-1] += word
            # a word of more than a line, such as a SMILES
            while self.width(lines[-1].rstrip(), size) > most_width and len(lines) < most_lines:
                fits = max(1, len(self._fitting(lines[-1], size, most_width)))
                lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
        kept = [*lines[: most_lines - 1], "".join(lines[most_lines - 1 :])]
        return [self.shortened(line.rstrip(), size, most_width) for line in kept if line]

    def _fitting(self, text: str, size: float, most_width: float) -> str:
        while text and self.width(text, size) > most_width:
            text = text[:-1]
        return text

    def box(self, x: float, y: float, width: float, height: float, fill: Colour | None, edge: Colour | None) -> None:
        """Draw a box with its upper left corner at (x, y), filled, with an edge, or both."""
        corners = Point2D(x, y), Point2D(x + width, y + height)
        self.drawer.SetLineWidth(1)
        for colour, filled in ((fill, True), (edge, False)):
            if colour is not None:
                self.drawer.SetFillPolys(filled)
                self.drawer.SetColour(colour)
                self.drawer.DrawRect(*corners, True)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour) -> None:
        """Draw a line, 1 pixel wide."""
        self.drawer.SetLineWidth(1)
        self.drawer.SetColour(colour)
        self.drawer.DrawLine(Point2D(*start), Point2D(*end), True)


def printable(text: str) -> str:
    """The text in ASCII, with a question mark for every other character."""
    return "".join(character if " " <= character <= "~" else "?" for character in text)


@lru_cache
def _font() -> FT2Font:
    font = FT2Font(str(_FONT))
    font.set_size(_EM, 72)
    return font


@lru_cache
def _glyph_metrics(character: str) -> tuple[float, float, float]:
    """Advance, x of the glyph's middle, and its height above the baseline, for a font of size 1."""
    glyph = _font().load_char(ord(character), LoadFlags.NO_HINTING)
    left, _, right, top = (edge / 64 / _EM for edge in glyph.bbox)
    return glyph.linearHoriAdvance / 65536 / _EM, (left + right) / 2, top
