"""`kflm2 datasets`: a line for each dataset."""

from collections.abc import Sequence

import numpy as np

from kflm2.data.datasets import DATASETS, Dataset, locate
from kflm2.data.molecules import Molecules, read_table
from kflm2.errors import DataError
from kflm2.files import sha256_file
from kflm2.stages.audit.molecule_facts import MoleculeFacts


def overview(names: Sequence[str] = ()) -> None:
    """Print a line for each dataset: is it here, and what is in it.

    Raises:
        SettingError: no such dataset.
    """
    lines: list[tuple[str, ...]] = [
        ("dataset", "rows", "rejected", "targets", "missing", "active", "duplicates", "salts", "stereo open")
    ]
    for name in names or tuple(DATASETS):
        dataset, missing = locate(name)
        if missing:
            lines.append((name, f"not here: {', '.join(missing)}; get it with `kflm2 datasets get {name}`"))
        else:
            try:
                lines.append((name, *_line(dataset)))
            except DataError as error:
                lines.append((name, f"cannot be used: {error}"))
    print(_aligned(lines))
    print(
        "\nmissing: labels; active: share of class 1 (of several targets lowest and highest); duplicates: further rows"
        "\nof a structure that stands there already (InChIKey); salts: molecules of several fragments; stereo open:"
        "\nmolecules with an undefined stereo centre or double bond. The rows: kflm2 datasets audit NAME"
    )


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as they need; numbers to the right. A line of two cells is a name and a remark."""
    full = [line for line in lines if len(line) > 2]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    rows = []
    for name, *cells in lines:
        if len(cells) > 1:
            cells = [
                cell.ljust(width) if place == 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(cells, widths[1:], strict=True))
            ]
        rows.append("  ".join([name.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(rows)


def _line(dataset: Dataset) -> tuple[str, ...]:
    molecules = read_table(dataset)
    facts = MoleculeFacts.of(molecules.smiles)
    published = all(sha256_file(file.path) == file.sha256 for file in dataset.files)
    kind = dataset.unit or ("classes" if dataset.task == "classification" else "no unit")
    return (
        str(molecules.read),
        str(len(molecules.rejected)),
        f"{len(dataset.targets)} ({kind}){'' if published else ', not the published file'}",
        str(molecules.missing),
        _active(molecules),
        str(len(facts.structure) - len(set(facts.structure))),
        str(int(facts.mixture.sum())),
        str(int(facts.undefined.sum())),
    )


def _active(molecules: Molecules) -> str:
    if molecules.dataset.task == "regression":
        return "-"
    shares = 100 * np.nanmean(molecules.y_true, axis=0)
    low, high = shares.min(), shares.max()
    return f"{low:.1f} %" if len(shares) == 1 else f"{low:.1f}-{high:.1f} %"
