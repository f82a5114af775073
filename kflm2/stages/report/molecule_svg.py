"""Molecules as compact SVG: RDKit's drawing without classes, metadata and repeated attributes."""

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
"""Units of the drawing per pixel."""
_ATOMS = 150
"""Maximum atoms; a larger molecule is not legible at this size."""
_SVG = "{http://www.w3.org/2000/svg}"


def draw(smiles: str) -> str | None:
    """The content of an <svg> element with viewBox 0 0 900 650; None if the molecule cannot be drawn.

    All lines of one colour and width are one path, and all letters of one colour another: a fifth of RDKit's size.
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
    except (RuntimeError, ValueError):  # rare, unusual valences and rings; the report has no drawing of it
        return None
    drawer.FinishDrawing()
    return _compact(drawer.GetDrawingText())


def _compact(text: str) -> str | None:
    # without the XML declaration of an encoding, which a Python str must not have
    root = ElementTree.fromstring(re.sub(r"^<\?xml[^>]*\?>", "", text))
    paths: dict[str, list[str]] = {}
    for element in root:
        if element.tag != f"{_SVG}path":
            return None  # RDKit writes paths only; an unknown element would be missing in the drawing
        style = dict(pair.split(":", 1) for pair in element.get("style", "").split(";") if ":" in pair)
        values = {key: element.get(key, style.get(key, "")) for key in ("fill", "stroke", "stroke-width")}
        # letters are filled and have no stroke, lines have a stroke and no fill
        attributes = f' fill="{values["fill"] or "#000"}"'
        if values["stroke"] not in ("", "none"):
            width = float(values["stroke-width"].removesuffix("px")) * SCALE
            attributes += f' stroke="{values["stroke"]}" stroke-width="{width:g}"'
        paths.setdefault(attributes, []).append(_path(element.get("d", "")))
    return "".join(f'<path{attributes} d="{"".join(data)}"/>' for attributes, data in paths.items())


def _path(d: str) -> str:
    """Path data in integer units of 1/SCALE pixel, relative to the previous point; RDKit's has M, L, Q, C and Z."""
    data, last, first = "", (0, 0), (0, 0)
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        values = [round(float(number) * SCALE) for number in re.findall(r"-?[\d.]+", numbers)]
        points = list(zip(values[::2], values[1::2], strict=True))
        if command == "Z":
            data, last = data + "z", first
        elif command == "M":
            data, last, first = f"{data}M{_pair(*points[0])}", points[0], points[0]
        else:
            data += command.lower() + "".join(_pair(x - last[0], y - last[1], i) for i, (x, y) in enumerate(points))
            last = points[-1]
    return data


def _pair(x: int, y: int, index: int = 0) -> str:
    # a minus sign separates numbers, so that no blank is needed
    return f"{' ' if index and x >= 0 else ''}{x}{' ' if y >= 0 else ''}{y}"
