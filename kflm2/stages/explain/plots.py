"""Picture of an explanation: the molecule, its tokens, its views and the descriptors of largest attribution.

RDKit draws everything, so that SVG and PNG are the same picture. All parts use one colour scale: orange raises the
prediction, blue lowers it. Atoms have the numbers of attributions.csv and of the heat maps. Lengths are in pixels, y
downwards.
"""

import html
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from kflm2.data.molecules import parse_smiles
from kflm2.plotting import styled
from kflm2.stages.explain.attribution import Attribution
from kflm2.stages.explain.canvas import Canvas, Colour, printable
from kflm2.stages.explain.meanings import meaning

# black text is legible on both ends of the scale, and colour-blind people can distinguish them
_LOWERS, _RAISES, _NEUTRAL = (0.36, 0.66, 0.90), (0.98, 0.62, 0.22), (1.0, 1.0, 1.0)
_INK, _GREY, _LINE = (0.1, 0.1, 0.1), (0.38, 0.38, 0.38), (0.72, 0.72, 0.72)
_WIDTH, _MARGIN, _SCALE_WIDTH = 900, 28, 110
_NUMBER, _NUMBER_COLOUR = 0.62, (0.5, 0.1, 0.55)
_INNER = _WIDTH - 2 * _MARGIN
_BOND, _LEAST_MOL, _MOST_MOL = 52, 150, 560
_BOX, _STRIP_LINE, _BAR, _ROW, _MEANT_ROW = 28, 36, 14, 24, 38
"""A row of bars is higher where a line below the label says what it means."""
_SMILES_LINES, _TITLE_LINES, _NOTE_LINES = 2, 2, 4
_MOST_DESCRIPTORS = 5
_CELL, _LABEL = 0.17, 0.085
"""Inches per cell of a heat map, and per label: of smaller cells, not all have one."""
_FIGURE = (10.0, 11.0)
"""Largest width and height of the attention picture in inches; of long molecules, the cells are smaller."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _PANEL = 0.45, 0.75, 0.4, 0.5, 3.4
"""Inches around a heat map, for labels, title and colour scale, and the least width of both together."""
_OUTLIER, _NAMED = 2.0, 5
"""The colour scale ends at this multiple of the 90th percentile of the absolute attributions, of atoms or of tokens, or
at the largest; so many attributions beyond it are named."""
_LEAST_SCALE = 0.1
"""Of the gap that is allowed between the parts' sum and the difference."""
_BASELINES = {
    "graph": "average atoms and bonds",
    "tokens": "mean tokens",
    "descriptors": "median descriptors",
}


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
    """(P,) unscaled descriptors, NaN where they cannot be computed."""
    xtb: str = ""
    """Why the molecule has no xTB values; empty where it has, or none are read."""

    @property
    def largest(self) -> float:
        """The end of the colour scale: the largest absolute attribution of an atom or token, without outliers."""
        parts = [part for part in (self.attribution.atoms, self.attribution.tokens) if part.any()]
        # a model may read descriptors only
        parts = [np.abs(part) for part in parts or [self.attribution.descriptors] if part.any()]
        usual = [min(part.max(), _OUTLIER * np.percentile(part, 90)) for part in parts]
        end = float(max(usual, default=0) or max((part.max() for part in parts), default=1))
        return max(end, self.least)

    @property
    def least(self) -> float:
        """The least end of a scale: of a network that counts for nothing, rounding errors stay pale and short."""
        return _LEAST_SCALE * self.attribution.allowed

    @property
    def beyond(self) -> list[str]:
        """Atoms and tokens whose attribution is beyond the colour scale, with their attribution, largest first."""
        atoms, tokens = self.attribution.atoms, self.attribution.tokens
        labels = [*(atom_labels(self.smiles) if atoms.size else ()), *(f"token {text}" for text in self.tokens)]
        pairs = [
            (text, value) for text, value in zip(labels, [*atoms, *tokens], strict=True) if abs(value) > self.largest
        ]
        return [f"{label} {value:+.3g}" for label, value in sorted(pairs, key=lambda pair: -abs(pair[1]))]

    @property
    def note(self) -> str:
        """Method, baseline and scale, in sentences."""
        unit, attribution = f" {self.unit}" if self.unit else "", self.attribution
        baseline = ", ".join(text for view, text in _BASELINES.items() if view in self.views)
        incomplete = "" if attribution.complete else ", which is NOT all of it"
        sentences = [
            f"Integrated gradients, {attribution.steps} steps. Baseline: the prediction with {baseline} of the"
            " training molecules instead.",
            f"The parts add up to {attribution.total:+.4g}{unit}; the difference is"
            f" {attribution.difference:+.4g}{incomplete}.",
        ]
        if "graph" in self.views:
            sentences.append(
                "The baseline depends on the number of atoms: compare the parts of one molecule, not of two."
            )
        if self.beyond:
            further = len(self.beyond) - _NAMED
            more = f" and {further} more" if further > 0 else ""
            sentences.append(f"Beyond the colour scale, in full colour: {', '.join(self.beyond[:_NAMED])}{more}.")
        return " ".join(sentences)

    def weightiest(self) -> list[tuple[str, float, float]]:
        """Name, value and attribution of the descriptors of largest absolute attribution, largest first."""
        attributions = self.attribution.descriptors
        order = np.argsort(-np.abs(attributions), kind="stable")[:_MOST_DESCRIPTORS]
        return [(self.descriptors[i], float(self.values[i]), float(attributions[i])) for i in order]


def atom_labels(smiles: str) -> list[str]:
    """(N,) element and number of every atom; atoms are numbered from 0, in the order of the SMILES."""
    return [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in parse_smiles(smiles).GetAtoms()]


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
    # the height of the picture depends on texts, whose width needs no drawing
    canvas = Canvas(None)
    head, note = _head(canvas, explanation), canvas.wrapped(explanation.note, 11, _INNER, _NOTE_LINES)
    lines = _strip(explanation.tokens)
    mol = rdMolDraw2D.PrepareMolForDrawing(parse_smiles(explanation.smiles))
    mol_top, mol_height = _MARGIN + 10 + sum(step for *_, step in head), _mol_height(mol)
    strip_top = mol_top + mol_height + 16
    bars_top = strip_top + (len(lines) * _STRIP_LINE + 44 if lines else 0)
    descriptors = [
        (f"{name} = {value:.4g}", attribution, meaning(name)) for name, value, attribution in explanation.weightiest()
    ]
    bars_height = max(len(explanation.views) * _ROW, len(descriptors) * _MEANT_ROW)
    note_top = bars_top + bars_height + 54
    canvas.drawer = drawer_class(_WIDTH, note_top + 16 * len(note) + 8, _INNER - _SCALE_WIDTH, mol_height)
    _draw_mol(canvas.drawer, mol, explanation, mol_top)
    _draw_head(canvas, head)
    _draw_scale(canvas, explanation, mol_top + mol_height / 2)
    if lines:
        canvas.write("attribution of each token of the SMILES", _MARGIN, strip_top + 14, 13, _GREY)
        _draw_strip(canvas, explanation, lines, strip_top + 26)
    middle = _MARGIN + _INNER * 0.42
    shares = [(view, explanation.attribution.shares[view], "") for view in explanation.views]
    _draw_bars(canvas, "sum of each view", shares, _MARGIN, middle - 24, bars_top, explanation)
    if descriptors:
        title = f"the {len(descriptors)} descriptors of largest attribution"
        _draw_bars(canvas, title, descriptors, middle, _WIDTH - _MARGIN, bars_top, explanation)
    for number, line in enumerate(note):
        canvas.write(line, _MARGIN, note_top + 16 * number, 11, _GREY)
    canvas.drawer.FinishDrawing()
    return canvas.drawer


def _head(canvas: Canvas, explanation: Explanation) -> list[tuple[str, int, int]]:
    """Lines of name, SMILES and title: text, size, and the step to the next line."""
    name = [explanation.name] if explanation.name else []
    return [
        *((canvas.shortened(text, 18, _INNER), 18, 26) for text in name),
        *((line, 15, 21) for line in canvas.wrapped(explanation.smiles, 15, _INNER, _SMILES_LINES)),
        *((line, 15, 21) for line in canvas.wrapped(explanation.title, 15, _INNER, _TITLE_LINES)),
    ]


def _draw_head(canvas: Canvas, head: list[tuple[str, int, int]]) -> None:
    y = _MARGIN + 10
    for text, size, step in head:
        canvas.write(text, _MARGIN, y, size, _INK)
        y += step


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
    options.annotationFontScale = _NUMBER
    options.setAtomNoteColour(_NUMBER_COLOUR)
    atoms = explanation.attribution.atoms
    colours = {i: colour(float(value), explanation.largest) for i, value in enumerate(atoms)}
    # not addAtomIndices: PrepareMolForDrawing may have added hydrogens, which no table names
    for i in range(parse_smiles(explanation.smiles).GetNumAtoms()):
        mol.GetAtomWithIdx(i).SetProp("atomNote", str(i))
    drawer.SetOffset(_MARGIN, top)
    drawer.DrawMolecule(mol, highlightAtoms=list(colours), highlightBonds=[], highlightAtomColors=colours)
    drawer.SetOffset(0, 0)
    # these also limit SetFontSize, which the text below uses with larger sizes
    options.maxFontSize = -1


def _draw_scale(canvas: Canvas, explanation: Explanation, middle: float) -> None:
    """Draw the colour scale as a vertical bar, from -largest at the bottom to largest at the top."""
    left, height, parts = _WIDTH - _MARGIN - _SCALE_WIDTH + 24, 108, 54
    for part in range(parts):
        value = (1 - 2 * (part + 0.5) / parts) * explanation.largest
        top = middle - height / 2 + part * height / parts
        canvas.box(left, top, 14, height / parts + 0.5, colour(value, explanation.largest), edge=None)
    canvas.box(left, middle - height / 2, 14, height, None, _LINE)
    for share in (1, 0, -1):
        beyond = {1: ">", -1: "<"}.get(share, "") if explanation.beyond else ""
        text = f"{beyond}{share * explanation.largest:+.2g}" if share else "0"
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
    rows: list[tuple[str, float, str]],
    left: float,
    right: float,
    top: float,
    explanation: Explanation,
) -> None:
    """Draw bars to the left and right of zero, with labels and, where given, what they mean in a line below.

    The longest bar fills its side; a lone bar, which has nothing to be compared with, half of it.
    """
    canvas.write(title, left, top + 14, 13, _GREY)
    label_width = min((right - left) * 0.48, 20 + max(canvas.width(name, 13) for name, *_ in rows))
    number_width = 58
    zero = left + label_width + (right - left - label_width) / 2
    largest = max(explanation.least, max((abs(value) for _, value, _ in rows), default=0)) or 1.0
    most_length = ((right - left - label_width) / 2 - number_width) / (1 if len(rows) > 1 else 2)
    row_height = _MEANT_ROW if any(text for *_, text in rows) else _ROW
    for i, (name, value, text) in enumerate(rows):
        y = top + 28 + i * row_height
        canvas.write(canvas.shortened(text, 11, right - left), left, y + 26, 11, _GREY)
        canvas.write(canvas.shortened(name, 13, label_width), left, y + 11, 13, _INK)
        length = abs(value) / largest * most_length
        x = zero if value > 0 else zero - length
        canvas.box(x, y, max(length, 0.5), _BAR, colour(value, explanation.largest), _LINE)
        end, align = (zero + length + 5, 0.0) if value > 0 else (zero - length - 5, 1.0)
        canvas.write(f"{value:+.3g}", end, y + 11, 12, _INK, align)
        canvas.line((zero, y - 4), (zero, y + _BAR + 4), _GREY)


@styled
def attention(to_atoms: np.ndarray, to_tokens: np.ndarray, tokens: tuple[str, ...], smiles: str) -> Figure:
    """Heat maps of attention, both with tokens from left to right and atoms from top to bottom.

    Args:
        to_atoms: (T, N) attention of tokens to atoms.
        to_tokens: (N, T) attention of atoms to tokens.
        tokens: (T,) texts.
        smiles: of the molecule with these atoms.
    """
    atoms = atom_labels(smiles)
    beside, cell = _cell(len(tokens), len(atoms))
    width, height = cell * len(tokens), cell * len(atoms)
    # the colour scale of a very small map is higher than the map
    scale_height = max(height, 0.5)
    panel = max(_PANEL, width + _LEFT + _RIGHT), scale_height + _TOP + _BOTTOM
    size = (2 * panel[0], panel[1] + _TOP) if beside else (panel[0], 2 * panel[1] + _TOP)
    figure = Figure(figsize=size)
    figure.set_layout_engine("none")
    most = int(10 * (size[0] - 2 * _LEFT))  # characters of the title that fit into a line, also of wide capitals
    title = smiles if len(smiles) <= most else f"{smiles[: most - 3]}..."
    figure.text(_LEFT / size[0], 1 - 0.25 / size[1], title, fontsize=8, parse_math=False)
    maps = (
        ("tokens attend to atoms: a column adds up to 1", to_atoms.T),
        ("atoms attend to tokens: a row adds up to 1", to_tokens),
    )
    for number, (title, weights) in enumerate(maps):
        left = number * panel[0] * beside + _LEFT
        bottom = _BOTTOM if beside else (1 - number) * panel[1] + _BOTTOM
        axis = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
        image = axis.imshow(weights, cmap="Blues", vmin=0, aspect="auto", interpolation="nearest")
        _label(axis, tokens, atoms, cell)
        figure.text(left / size[0], (bottom + scale_height + 0.08) / size[1], title, fontsize=9)
        scale = ((left + width + 0.12) / size[0], bottom / size[1], 0.1 / size[0], scale_height / size[1])
        figure.colorbar(image, cax=figure.add_axes(scale)).ax.tick_params(labelsize=7)
    return figure


def _cell(tokens: int, atoms: int) -> tuple[bool, float]:
    """Whether two heat maps of (atoms, tokens) fit side by side in the figure, and the inches per cell."""
    width, height = _FIGURE
    if 2 * (tokens * _CELL + _LEFT + _RIGHT) <= width and atoms * _CELL + 2 * _TOP + _BOTTOM <= height:
        return True, _CELL
    across, down = (width - _LEFT - _RIGHT) / tokens, ((height - _TOP) / 2 - _TOP - _BOTTOM) / atoms
    return False, min(_CELL, across, down)


def _label(axis: Axes, tokens: tuple[str, ...], atoms: list[str], cell: float) -> None:
    """Label the tokens and atoms of a heat map; where labels would overlap, every second, third, ... one."""
    every, font_size = math.ceil(_LABEL / cell), min(7.0, 72 * cell * math.ceil(_LABEL / cell) * 0.8)
    shown = range(0, len(tokens), every)
    # a token may contain a dollar sign, which matplotlib would read as the start of a formula
    labels = [printable(tokens[i]) for i in shown]
    axis.set_xticks(shown, labels, rotation=90, fontsize=font_size, parse_math=False)
    axis.set_yticks(range(0, len(atoms), every), atoms[::every], fontsize=font_size, parse_math=False)
    axis.tick_params(length=0)
