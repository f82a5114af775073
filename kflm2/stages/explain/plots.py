"""Picture of an explanation: the molecule, its tokens, its views and the descriptors of largest attribution.

RDKit draws everything, so that SVG and PNG are the same picture. All parts use one colour scale: orange raises the
prediction, blue lowers it. Lengths are in pixels, y downwards.
"""

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from kflm2.data.molecules import parse_smiles
from kflm2.plotting import styled
from kflm2.stages.explain.attribution import Attribution
from kflm2.stages.explain.canvas import Canvas, Colour, printable

# black text is legible on both ends of the scale, and colour-blind people can distinguish them
_LOWERS, _RAISES, _NEUTRAL = (0.36, 0.66, 0.90), (0.98, 0.62, 0.22), (1.0, 1.0, 1.0)
_INK, _GREY, _LINE = (0.1, 0.1, 0.1), (0.38, 0.38, 0.38), (0.72, 0.72, 0.72)
_WIDTH, _MARGIN, _SCALE_WIDTH = 900, 28, 110
_INNER = _WIDTH - 2 * _MARGIN
_BOND, _LEAST_MOL, _MOST_MOL = 52, 150, 560
_BOX, _STRIP_LINE, _BAR, _ROW = 28, 36, 14, 24
_MOST_DESCRIPTORS = 5
_CELL = 0.17
"""Inches per cell of a heat map, enough for its label."""
_LARGEST_MAP = 24
"""Largest size of a heat map in inches; with more than 141 tokens cells and labels are smaller."""
_BESIDE = 36
"""Largest number of tokens at which the two heat maps are drawn side by side."""


@dataclass(frozen=True)
class Explanation:
    """The attribution of one molecule with its labels."""

    smiles: str
    name: str
    """Name of the molecule in the input; may be empty."""
    title: str
    """Target, prediction and baseline."""
    unit: str
    """Unit of all values; may be empty."""
    attribution: Attribution
    probability: float | None
    """Calibrated probability of class 1, as `kflm2 predict` gives it; None for regression."""
    views: tuple[str, ...]
    """Those of attribution.VIEWS that the model reads."""
    tokens: tuple[str, ...]
    """(T,) texts."""
    descriptors: tuple[str, ...]
    """(P,) names."""
    values: np.ndarray
    """(P,) unscaled descriptors, NaN where RDKit cannot compute them."""

    @property
    def largest(self) -> float:
        """The end of the colour scale: the largest absolute attribution of an atom or token."""
        values = np.concatenate([self.attribution.atoms, self.attribution.tokens])
        # a model may read descriptors only
        return float(np.abs(values if values.size else self.attribution.descriptors).max(initial=0)) or 1.0

    def weightiest(self) -> list[tuple[str, float, float]]:
        """Name, value and attribution of the descriptors of largest absolute attribution, largest first."""
        attributions = self.attribution.descriptors
        order = np.argsort(-np.abs(attributions), kind="stable")[:_MOST_DESCRIPTORS]
        return [(self.descriptors[i], float(self.values[i]), float(attributions[i])) for i in order]


def colour(value: float, largest: float) -> Colour:
    """The colour of an attribution; white is 0, the ends of the scale are -largest and largest."""
    share = min(1.0, abs(value) / largest)
    end = _RAISES if value > 0 else _LOWERS
    red, green, blue = (a + share * (b - a) for a, b in zip(_NEUTRAL, end, strict=True))
    return red, green, blue


def svg(explanation: Explanation) -> str:
    """The picture as SVG, with a title as text for screen readers."""
    text = str(_draw(explanation, rdMolDraw2D.MolDraw2DSVG).GetDrawingText())
    title = " ".join(part for part in (explanation.name, explanation.smiles, explanation.title) if part)
    head, mark, rest = text.partition("<!-- END OF HEADER -->\n")
    return f"{head}{mark}<title>{html.escape(printable(title))}</title>\n{rest}"


def png(explanation: Explanation) -> bytes:
    """The picture as PNG."""
    return bytes(_draw(explanation, rdMolDraw2D.MolDraw2DCairo).GetDrawingText())


def _draw(explanation: Explanation, drawer_class: Any) -> Any:
    lines = _strip(explanation.tokens)
    mol = rdMolDraw2D.PrepareMolForDrawing(parse_smiles(explanation.smiles))
    mol_top, mol_height = _MARGIN + 62 + 24 * bool(explanation.name), _mol_height(mol)
    strip_top = mol_top + mol_height + 16
    bars_top = strip_top + (len(lines) * _STRIP_LINE + 44 if lines else 0)
    rows = max(len(explanation.views), len(explanation.weightiest()))
    height = bars_top + rows * _ROW + 74
    drawer = drawer_class(_WIDTH, height, _INNER - _SCALE_WIDTH, mol_height)
    _draw_mol(drawer, mol, explanation, mol_top)
    canvas = Canvas(drawer)
    _draw_text(canvas, explanation, height)
    _draw_scale(canvas, explanation, mol_top + mol_height / 2)
    if lines:
        canvas.write("what each token adds, as the LLM cuts the SMILES", _MARGIN, strip_top + 14, 13, _GREY)
        _draw_strip(canvas, explanation, lines, strip_top + 26)
    middle = _MARGIN + _INNER * 0.42
    shares = [(view, explanation.attribution.shares[view]) for view in explanation.views]
    _draw_bars(canvas, "what each view adds", shares, _MARGIN, middle - 24, bars_top, explanation)
    descriptors = [(f"{name} = {value:.4g}", attribution) for name, value, attribution in explanation.weightiest()]
    if descriptors:
        title = f"the {len(descriptors)} descriptors that add or take most"
        _draw_bars(canvas, title, descriptors, middle, _WIDTH - _MARGIN, bars_top, explanation)
    drawer.FinishDrawing()
    return drawer


def _mol_height(mol: Chem.Mol) -> int:
    """Pixels that a molecule needs with bonds of the usual length, or of a smaller one at which its width fits."""
    positions = mol.GetConformer().GetPositions()[:, :2]
    width, height = np.ptp(positions, axis=0) + 2.0
    per_angstrom = min(_BOND / 1.5, (_INNER - _SCALE_WIDTH) / width)
    return int(np.clip(height * per_angstrom, _LEAST_MOL, _MOST_MOL))


def _draw_mol(drawer: Any, mol: Chem.Mol, explanation: Explanation, top: int) -> None:
    options = drawer.drawOptions()
    # colour shows the attribution of an atom, not its element
    options.useBWAtomPalette()
    options.fixedBondLength, options.highlightRadius, options.padding = _BOND, 0.42, 0.03
    options.minFontSize, options.maxFontSize = -1, 18
    options.fillHighlights = options.atomHighlightsAreCircles = True
    atoms = explanation.attribution.atoms
    colours = {i: colour(float(value), explanation.largest) for i, value in enumerate(atoms)}
    drawer.SetOffset(_MARGIN, top)
    drawer.DrawMolecule(mol, highlightAtoms=list(colours), highlightBonds=[], highlightAtomColors=colours)
    drawer.SetOffset(0, 0)
    # these also limit SetFontSize, which the text below uses with larger sizes
    options.maxFontSize = -1


def _draw_text(canvas: Canvas, explanation: Explanation, height: int) -> None:
    """Write name, SMILES and title above the molecule, and the method at the bottom."""
    y, unit, attribution = _MARGIN + 10, f" {explanation.unit}" if explanation.unit else "", explanation.attribution
    if explanation.name:
        canvas.write(canvas.shortened(explanation.name, 18, _INNER), _MARGIN, y, 18, _INK)
        y += 26
    canvas.write(canvas.shortened(explanation.smiles, 15, _INNER), _MARGIN, y, 15, _INK)
    canvas.write(canvas.shortened(explanation.title, 15, _INNER), _MARGIN, y + 26, 15, _INK)
    incomplete = "" if attribution.complete else ", which is NOT all of it"
    method = (
        f"integrated gradients, {attribution.steps} steps; baseline: a molecule that says nothing; the parts add up to"
        f" {attribution.total:+.4g}{unit}, the difference is {attribution.difference:+.4g}{incomplete}"
    )
    canvas.write(canvas.shortened(method, 11, _INNER), _MARGIN, height - 16, 11, _GREY)


def _draw_scale(canvas: Canvas, explanation: Explanation, middle: float) -> None:
    """Draw the colour scale as a vertical bar, from -largest at the bottom to largest at the top."""
    left, height, parts = _WIDTH - _MARGIN - _SCALE_WIDTH + 24, 108, 54
    for part in range(parts):
        value = (1 - 2 * (part + 0.5) / parts) * explanation.largest
        top = middle - height / 2 + part * height / parts
        canvas.box(left, top, 14, height / parts + 0.5, colour(value, explanation.largest), edge=None)
    canvas.box(left, middle - height / 2, 14, height, None, _LINE)
    for share in (1, 0, -1):
        text = f"{share * explanation.largest:+.2g}" if share else "0"
        canvas.write(text, left + 20, middle - share * height / 2 + 4, 12, _INK)
    unit = canvas.shortened(explanation.unit, 12, 1.4 * _SCALE_WIDTH)
    canvas.write(unit, left + 7, middle - height / 2 - 12, 12, _GREY, align=0.5)


def _strip(tokens: tuple[str, ...]) -> list[list[tuple[float, float, int]]]:
    """Lines of token boxes: left end, width, and index of the token."""
    lines: list[list[tuple[float, float, int]]] = []
    left = float(_INNER)
    for i, text in enumerate(tokens):
        width = max(22.0, Canvas.width(text, 14) + 12)
        if left + width > _INNER or not lines:
            left = 0.0
            lines.append([])
        lines[-1].append((left, width, i))
        left += width + 2
    return lines


def _draw_strip(
    canvas: Canvas, explanation: Explanation, lines: list[list[tuple[float, float, int]]], top: float
) -> None:
    for line_index, line in enumerate(lines):
        y = top + line_index * _STRIP_LINE
        for left, width, i in line:
            fill = colour(float(explanation.attribution.tokens[i]), explanation.largest)
            canvas.box(_MARGIN + left, y, width, _BOX, fill, _LINE)
            text = canvas.shortened(explanation.tokens[i], 14, _INNER - 12)
            canvas.write(text, _MARGIN + left + width / 2, y + _BOX / 2 + 5, 14, _INK, align=0.5)


def _draw_bars(
    canvas: Canvas,
    title: str,
    rows: list[tuple[str, float]],
    left: float,
    right: float,
    top: float,
    explanation: Explanation,
) -> None:
    """Draw labelled bars to the left and right of zero, scaled so that the longest fills its side."""
    canvas.write(title, left, top + 14, 13, _GREY)
    label_width = min((right - left) * 0.48, 20 + max(canvas.width(name, 13) for name, _ in rows))
    number_width = 58
    zero = left + label_width + (right - left - label_width) / 2
    largest = max((abs(value) for _, value in rows), default=0) or 1.0
    most_length = (right - left - label_width) / 2 - number_width
    for i, (name, value) in enumerate(rows):
        y = top + 28 + i * _ROW
        canvas.write(canvas.shortened(name, 13, label_width), left, y + 11, 13, _INK)
        length = abs(value) / largest * most_length
        x = zero if value > 0 else zero - length
        canvas.box(x, y, max(length, 0.5), _BAR, colour(value, explanation.largest), _LINE)
        end, align = (zero + length + 5, 0.0) if value > 0 else (zero - length - 5, 1.0)
        canvas.write(f"{value:+.3g}", end, y + 11, 12, _INK, align)
    canvas.line((zero, top + 24), (zero, top + 28 + len(rows) * _ROW - 6), _GREY)


@styled
def attention(to_atoms: np.ndarray, to_tokens: np.ndarray, tokens: tuple[str, ...], smiles: str) -> Figure:
    """Heat maps of attention, both with tokens from left to right and atoms from top to bottom.

    Args:
        to_atoms: (T, N) attention of tokens to atoms.
        to_tokens: (N, T) attention of atoms to tokens.
        tokens: (T,) texts.
        smiles: of the molecule with these atoms.
    """
    atoms = [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in parse_smiles(smiles).GetAtoms()]
    grid = (1, 2) if len(tokens) <= _BESIDE else (2, 1)
    cell = min(_CELL, _LARGEST_MAP / max(to_atoms.shape))
    font_size = 7 * cell / _CELL
    width, height = (max(1.6, cell * len(labels)) + 1.6 for labels in (tokens, atoms))
    figure = Figure(figsize=(width * grid[1], height * grid[0] + 0.4))
    most = int(11 * width * grid[1])  # characters of the title that fit into a line
    figure.suptitle(smiles if len(smiles) <= most else f"{smiles[: most - 3]}...", fontsize=10, parse_math=False)
    maps = (
        ("tokens attend to atoms: a column adds up to 1", to_atoms.T),
        ("atoms attend to tokens: a row adds up to 1", to_tokens),
    )
    for axis, (title, weights) in zip(figure.subplots(*grid), maps, strict=True):
        image = axis.imshow(weights, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
        # a token may contain a dollar sign, which matplotlib would read as the start of a formula
        axis.set_xticks(range(len(tokens)), map(printable, tokens), rotation=90, fontsize=font_size, parse_math=False)
        axis.set_yticks(range(len(atoms)), atoms, fontsize=font_size, parse_math=False)
        axis.set_title(title, fontsize=9)
        axis.tick_params(length=0)
        figure.colorbar(image, ax=axis, fraction=0.03, pad=0.02).ax.tick_params(labelsize=7)
    return figure
