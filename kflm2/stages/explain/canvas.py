"""Words, boxes and lines on RDKit's drawing, in pixels, y downwards.

RDKit writes the characters of a string close together, reads <sub> and <sup> as markup, and knows only ASCII. Here each
character stands for itself, where the font says it belongs.
"""

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
    """Draws on a drawing of RDKit's."""

    def __init__(self, drawer: Any) -> None:
        self.drawer = drawer

    def write(self, text: str, x: float, baseline: float, size: float, colour: Colour, align: float = 0.0) -> None:
        """Write one line.

        Args:
            text: what is not ASCII becomes a question mark.
            x: of its left end, its middle or its right end.
            baseline: y of the line it stands on.
            size: of the font.
            colour: of the letters.
            align: 0, 0.5 or 1: what x is the place of.
        """
        text = printable(text)
        self.drawer.SetColour(colour)
        self.drawer.SetFontSize(size)
        x -= align * self.width(text, size)
        for character in text:
            advance, middle, top = _metrics(character)
            if not character.isspace():
                # RDKit puts a character's middle at x, and half its height above the line at y
                place = Point2D(x + middle * size, baseline - top / 2 * size)
                self.drawer.DrawString(character, place, 0, True)
            x += advance * size

    @staticmethod
    def width(text: str, size: float) -> float:
        """How long a line is."""
        return size * sum(_metrics(character)[0] for character in printable(text))

    def shortened(self, text: str, size: float, most: float) -> str:
        """The text, or as much of it as `most` has room for, and dots."""
        if self.width(text, size) <= most:
            return text
        while text and self.width(f"{text}...", size) > most:
            text = text[:-1]
        return f"{text}..."

    def box(self, x: float, y: float, wide: float, high: float, fill: Colour | None, edge: Colour | None) -> None:
        """A box from its upper left corner, filled, with an edge, or both."""
        corners = Point2D(x, y), Point2D(x + wide, y + high)
        self.drawer.SetLineWidth(1)
        for own, fills in ((fill, True), (edge, False)):
            if own is not None:
                self.drawer.SetFillPolys(fills)
                self.drawer.SetColour(own)
                self.drawer.DrawRect(*corners, True)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour) -> None:
        """A line of one pixel."""
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
def _metrics(character: str) -> tuple[float, float, float]:
    """Advance, middle of the ink, and its height above the line, each for a font of size 1."""
    glyph = _font().load_char(ord(character), LoadFlags.NO_HINTING)
    left, _, right, top = (edge / 64 / _EM for edge in glyph.bbox)
    return glyph.linearHoriAdvance / 65536 / _EM, (left + right) / 2, top
