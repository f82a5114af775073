"""An explained molecule as a picture: its structure, its tokens, its views and its weightiest descriptors.

RDKit draws all of it, so that SVG and PNG are the same picture. One colour scale throughout: orange raises the
prediction, blue lowers it. Lengths are pixels, y downwards.
"""

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from kflm2.data.molecules import parse_smiles
from kflm2.stages.explain.attribution import Attribution
from kflm2.stages.explain.canvas import Canvas, Colour, printable

# black letters can be read on both ends, and every kind of sight tells them apart
_LOWERS, _RAISES, _NEUTRAL = (0.36, 0.66, 0.90), (0.98, 0.62, 0.22), (1.0, 1.0, 1.0)
_INK, _GREY, _LINE = (0.1, 0.1, 0.1), (0.38, 0.38, 0.38), (0.72, 0.72, 0.72)
_WIDTH, _MARGIN, _SCALE_WIDTH = 900, 28, 110
_INNER = _WIDTH - 2 * _MARGIN
_BOND, _LEAST_MOL, _MOST_MOL = 52, 150, 560
_BOX, _STRIP_LINE, _BAR, _ROW = 28, 36, 14, 24
_MOST_DESCRIPTORS = 5
_CELL = 0.17
"""Inches of a cell of a heat map, room for its label."""
_LARGEST_MAP = 24
"""Inches of a heat map at most; in one of more than 141 tokens cells and labels are smaller."""
_BESIDE = 36
"""Tokens up to which the two heat maps stand beside each other."""


@dataclass(frozen=True)
class Explained:
    """One explained molecule with the words that go with it."""

    smiles: str
    name: str
    """What the input calls it; may be empty."""
    title: str
    """What is predicted, and from which baseline."""
    unit: str
    """Of all numbers; may be empty."""
    found: Attribution
    probability: float | None
    """Of class 1, as it is predicted; None for regression."""
    views: tuple[str, ...]
    """Of attribution.VIEWS, those that the model reads."""
    tokens: tuple[str, ...]
    """(T,) texts."""
    descriptors: tuple[str, ...]
    """(P,) names."""
    values: np.ndarray
    """(P,) descriptors as RDKit computes them, NaN where it cannot."""

    @property
    def largest(self) -> float:
        """The end of the colour scale: what the weightiest atom or token adds."""
        each = np.concatenate([self.found.atoms, self.found.tokens])
        # without atoms and tokens, descriptors are all there is
        return float(np.abs(each if each.size else self.found.descriptors).max(initial=0)) or 1.0

    def weightiest(self) -> list[tuple[str, float, float]]:
        """Name, value and attribution of the descriptors that add or take most, the first one first."""
        order = np.argsort(-np.abs(self.found.descriptors), kind="stable")[:_MOST_DESCRIPTORS]
        return [(self.descriptors[i], float(self.values[i]), float(self.found.descriptors[i])) for i in order]


def colour(value: float, largest: float) -> Colour:
    """The colour of an attribution; white is 0, the ends are reached at -largest and largest."""
    share = min(1.0, abs(value) / largest)
    end = _RAISES if value > 0 else _LOWERS
    red, green, blue = (a + share * (b - a) for a, b in zip(_NEUTRAL, end, strict=True))
    return red, green, blue


def svg(explained: Explained) -> str:
    """The picture as SVG; its title, which readers of the page hear, is text."""
    text = str(_draw(explained, rdMolDraw2D.MolDraw2DSVG).GetDrawingText())
    words = " ".join(part for part in (explained.name, explained.smiles, explained.title) if part)
    head, mark, rest = text.partition("<!-- END OF HEADER -->\n")
    return f"{head}{mark}<title>{html.escape(printable(words))}</title>\n{rest}"


def png(explained: Explained) -> bytes:
    """The picture as PNG."""
    return bytes(_draw(explained, rdMolDraw2D.MolDraw2DCairo).GetDrawingText())


def _draw(explained: Explained, kind: Any) -> Any:
    lines = _strip(explained.tokens)
    mol = rdMolDraw2D.PrepareMolForDrawing(parse_smiles(explained.smiles))
    mol_top, mol_height = _MARGIN + 62 + 24 * bool(explained.name), _mol_height(mol)
    strip_top = mol_top + mol_height + 16
    bars_top = strip_top + (len(lines) * _STRIP_LINE + 44 if lines else 0)
    rows = max(len(explained.views), len(explained.weightiest()))
    height = bars_top + rows * _ROW + 74
    drawer = kind(_WIDTH, height, _INNER - _SCALE_WIDTH, mol_height)
    _draw_mol(drawer, mol, explained, mol_top)
    pen = Canvas(drawer)
    _draw_words(pen, explained, height)
    _draw_scale(pen, explained, mol_top + mol_height / 2)
    if lines:
        pen.write("what each token adds, as the LLM cuts the SMILES", _MARGIN, strip_top + 14, 13, _GREY)
        _draw_strip(pen, explained, lines, strip_top + 26)
    middle = _MARGIN + _INNER * 0.42
    shares = [(view, explained.found.shares[view]) for view in explained.views]
    _draw_bars(pen, "what each view adds", shares, _MARGIN, middle - 24, bars_top, explained)
    described = [(f"{name} = {value:.4g}", own) for name, value, own in explained.weightiest()]
    if described:
        title = f"the {len(described)} descriptors that add or take most"
        _draw_bars(pen, title, described, middle, _WIDTH - _MARGIN, bars_top, explained)
    drawer.FinishDrawing()
    return drawer


def _mol_height(mol: Chem.Mol) -> int:
    """Pixels that a molecule needs when its bonds have their usual length, or when its width fills the picture."""
    places = mol.GetConformer().GetPositions()[:, :2]
    wide, high = np.ptp(places, axis=0) + 2.0
    per_angstrom = min(_BOND / 1.5, (_INNER - _SCALE_WIDTH) / wide)
    return int(np.clip(high * per_angstrom, _LEAST_MOL, _MOST_MOL))


def _draw_mol(drawer: Any, mol: Chem.Mol, explained: Explained, top: int) -> None:
    options = drawer.drawOptions()
    # colour says what an atom adds, not which element it is
    options.useBWAtomPalette()
    options.fixedBondLength, options.highlightRadius, options.padding = _BOND, 0.42, 0.03
    options.minFontSize, options.maxFontSize = -1, 18
    options.fillHighlights = options.atomHighlightsAreCircles = True
    atoms = explained.found.atoms
    colours = {i: colour(float(own), explained.largest) for i, own in enumerate(atoms)}
    drawer.SetOffset(_MARGIN, top)
    drawer.DrawMolecule(mol, highlightAtoms=list(colours), highlightBonds=[], highlightAtomColors=colours)
    drawer.SetOffset(0, 0)
    # SetFontSize is bound by these, and words have sizes of their own
    options.maxFontSize = -1


def _draw_words(pen: Canvas, explained: Explained, height: int) -> None:
    place, unit, found = _MARGIN + 10, f" {explained.unit}" if explained.unit else "", explained.found
    if explained.name:
        pen.write(pen.shortened(explained.name, 18, _INNER), _MARGIN, place, 18, _INK)
        place += 26
    pen.write(pen.shortened(explained.smiles, 15, _INNER), _MARGIN, place, 15, _INK)
    pen.write(pen.shortened(explained.title, 15, _INNER), _MARGIN, place + 26, 15, _INK)
    told = "" if found.complete else ", which is NOT all of it"
    words = (
        f"integrated gradients, {found.steps} steps; baseline: a molecule that says nothing; the parts add up to"
        f" {found.total:+.4g}{unit}, the difference is {found.difference:+.4g}{told}"
    )
    pen.write(pen.shortened(words, 11, _INNER), _MARGIN, height - 16, 11, _GREY)


def _draw_scale(pen: Canvas, explained: Explained, middle: float) -> None:
    """A bar of the colours, from what lowers at its foot to what raises at its head."""
    left, high, parts = _WIDTH - _MARGIN - _SCALE_WIDTH + 24, 108, 54
    for part in range(parts):
        value = (1 - 2 * (part + 0.5) / parts) * explained.largest
        top = middle - high / 2 + part * high / parts
        pen.box(left, top, 14, high / parts + 0.5, colour(value, explained.largest), edge=None)
    pen.box(left, middle - high / 2, 14, high, None, _LINE)
    for share in (1, 0, -1):
        text = f"{share * explained.largest:+.2g}" if share else "0"
        pen.write(text, left + 20, middle - share * high / 2 + 4, 12, _INK)
    pen.write(
        pen.shortened(explained.unit, 12, 1.4 * _SCALE_WIDTH), left + 7, middle - high / 2 - 12, 12, _GREY, align=0.5
    )


def _strip(tokens: tuple[str, ...]) -> list[list[tuple[float, float, int]]]:
    """Lines of boxes: left end, width, and which token."""
    lines: list[list[tuple[float, float, int]]] = []
    left = float(_INNER)
    for i, text in enumerate(tokens):
        wide = max(22.0, Canvas.width(text, 14) + 12)
        if left + wide > _INNER or not lines:
            left = 0.0
            lines.append([])
        lines[-1].append((left, wide, i))
        left += wide + 2
    return lines


def _draw_strip(pen: Canvas, explained: Explained, lines: list[list[tuple[float, float, int]]], top: float) -> None:
    for number, line in enumerate(lines):
        y = top + number * _STRIP_LINE
        for left, wide, i in line:
            fill = colour(float(explained.found.tokens[i]), explained.largest)
            pen.box(_MARGIN + left, y, wide, _BOX, fill, _LINE)
            text = pen.shortened(explained.tokens[i], 14, _INNER - 12)
            pen.write(text, _MARGIN + left + wide / 2, y + _BOX / 2 + 5, 14, _INK, align=0.5)


def _draw_bars(
    pen: Canvas, title: str, rows: list[tuple[str, float]], left: float, right: float, top: float, explained: Explained
) -> None:
    """Named bars to the left and right of zero, the longest one as long as there is room for."""
    pen.write(title, left, top + 14, 13, _GREY)
    words = min((right - left) * 0.48, 20 + max(pen.width(name, 13) for name, _ in rows))
    number = 58
    zero = left + words + (right - left - words) / 2
    longest = max((abs(value) for _, value in rows), default=0) or 1.0
    room = (right - left - words) / 2 - number
    for i, (name, value) in enumerate(rows):
        y = top + 28 + i * _ROW
        pen.write(pen.shortened(name, 13, words), left, y + 11, 13, _INK)
        long = abs(value) / longest * room
        pen.box(zero if value > 0 else zero - long, y, max(long, 0.5), _BAR, colour(value, explained.largest), _LINE)
        end, align = (zero + long + 5, 0.0) if value > 0 else (zero - long - 5, 1.0)
        pen.write(f"{value:+.3g}", end, y + 11, 12, _INK, align)
    pen.line((zero, top + 24), (zero, top + 28 + len(rows) * _ROW - 6), _GREY)


def attention(there: np.ndarray, back: np.ndarray, tokens: tuple[str, ...], smiles: str) -> Figure:
    """Heat maps of attention, both with tokens from left to right and atoms from top to bottom.

    Args:
        there: (T, N) from tokens to atoms.
        back: (N, T) from atoms to tokens.
        tokens: (T,) texts.
        smiles: whose atoms these are.
    """
    atoms = [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in parse_smiles(smiles).GetAtoms()]
    beside = len(tokens) <= _BESIDE
    shape = (1, 2) if beside else (2, 1)
    cell = min(_CELL, _LARGEST_MAP / max(there.shape))
    size = 7 * cell / _CELL
    wide, high = (max(1.6, cell * len(labels)) + 1.6 for labels in (tokens, atoms))
    figure = Figure(figsize=(wide * shape[1], high * shape[0] + 0.4), layout="constrained")
    most = int(11 * wide * shape[1])  # characters of this size in a line
    figure.suptitle(smiles if len(smiles) <= most else f"{smiles[: most - 3]}...", fontsize=10, parse_math=False)
    maps = (
        ("tokens attend to atoms: a column adds up to 1", there.T),
        ("atoms attend to tokens: a row adds up to 1", back),
    )
    for axis, (title, own) in zip(figure.subplots(*shape), maps, strict=True):
        drawn = axis.imshow(own, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
        # a token may hold a dollar sign, which is no formula
        axis.set_xticks(range(len(tokens)), map(printable, tokens), rotation=90, fontsize=size, parse_math=False)
        axis.set_yticks(range(len(atoms)), atoms, fontsize=size, parse_math=False)
        axis.set_title(title, fontsize=9)
        axis.tick_params(length=0)
        figure.colorbar(drawn, ax=axis, fraction=0.03, pad=0.02).ax.tick_params(labelsize=7)
    return figure
