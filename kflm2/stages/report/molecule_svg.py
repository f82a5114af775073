"""Molecules as small SVG: RDKit's drawing without its classes, its metadata and its repetition."""

import re
from typing import Any
from xml.etree import ElementTree

from rdkit import rdBase
from rdkit.Chem.Draw import rdMolDraw2D

from kflm2.data.molecules import parse_smiles
from kflm2.errors import MoleculeError

SIZE = (180, 130)
"""Width and height of a drawing, in pixels."""
SCALE = 5
"""Units of the drawing in a pixel."""
_ATOMS = 150
"""A larger molecule is no picture at this size."""
_SVG = "{http://www.w3.org/2000/svg}"


def draw(smiles: str) -> str | None:
    """What stands between <svg> and </svg>, viewBox 0 0 900 650; None for what cannot be drawn.

    All lines of a colour and a width are one path, and all letters of a colour another: a fifth of what RDKit writes.
    """
    try:
        mol = parse_smiles(smiles)
    except MoleculeError:
        return None
    if mol.GetNumAtoms() > _ATOMS:
        return None
    drawer = rdMolDraw2D.MolDraw2DSVG(*SIZE)
    options: Any = drawer.drawOptions()
    options.clearBackground, options.includeMetadata = False, False
    options.bondLineWidth, options.padding, options.fixedBondLength = 1.2, 0.06, 24
    try:
        with rdBase.BlockLogs():
            rdMolDraw2D.PrepareAndDrawMolecule(drawer, mol)
    except (RuntimeError, ValueError):  # rare, of odd valences and rings: a report goes on without that picture
        return None
    drawer.FinishDrawing()
    return _small(drawer.GetDrawingText())


def _small(text: str) -> str | None:
    # RDKit declares Latin-1, and Python's text has no encoding to declare
    root = ElementTree.fromstring(re.sub(r"^<\?xml[^>]*\?>", "", text))
    paths: dict[str, list[str]] = {}
    for element in root:
        if element.tag != f"{_SVG}path":
            return None  # nothing else is known to come; better no picture than half of one
        style = dict(pair.split(":", 1) for pair in element.get("style", "").split(";") if ":" in pair)
        looks = {key: element.get(key, style.get(key, "")) for key in ("fill", "stroke", "stroke-width")}
        # a letter without a stroke is filled, a line without a fill is drawn
        attributes = f' fill="{looks["fill"] or "#000"}"'
        if looks["stroke"] not in ("", "none"):
            width = float(looks["stroke-width"].removesuffix("px")) * SCALE
            attributes += f' stroke="{looks["stroke"]}" stroke-width="{width:g}"'
        paths.setdefault(attributes, []).append(_path(element.get("d", "")))
    return "".join(f'<path{attributes} d="{"".join(own)}"/>' for attributes, own in paths.items())


def _path(d: str) -> str:
    """A path in whole fifths of a pixel, each point from the one before it; RDKit's has M, L, Q, C and Z."""
    out, at, first = "", (0, 0), (0, 0)
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        values = [round(float(number) * SCALE) for number in re.findall(r"-?[\d.]+", numbers)]
        points = list(zip(values[::2], values[1::2], strict=True))
        if command == "Z":
            out, at = out + "z", first
        elif command == "M":
            out, at, first = f"{out}M{_pair(*points[0])}", points[0], points[0]
        else:
            out += command.lower() + "".join(_pair(x - at[0], y - at[1], i) for i, (x, y) in enumerate(points))
            at = points[-1]
    return out


def _pair(x: int, y: int, place: int = 0) -> str:
    # a minus parts numbers as well as a blank does
    return f"{' ' if place and x >= 0 else ''}{x}{' ' if y >= 0 else ''}{y}"
