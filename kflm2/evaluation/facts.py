"""What each molecule of a table is, and a line for each dataset."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import rdkit
from rdkit import Chem
from tqdm import tqdm

from kflm2.data.datasets import DATASETS, Dataset, locate
from kflm2.data.molecules import Molecules, parse_smiles, read_table
from kflm2.data.structures import identity
from kflm2.errors import DataError
from kflm2.files import keep_json, sha256_file, sha256_texts


@dataclass(frozen=True)
class Facts:
    """What each molecule of a table is."""

    structure: list[str]
    """(n,) InChIKey, or canonical SMILES where InChI has none."""
    canonical: list[str]
    """(n,) canonical SMILES."""
    atoms: np.ndarray
    """(n,) heavy atoms."""
    mixture: np.ndarray
    """(n,) whether it is of several fragments: a salt or a mixture."""
    undefined: np.ndarray
    """(n,) whether a stereo centre or double bond is left undefined."""

    @staticmethod
    def of(smiles: Sequence[str]) -> "Facts":
        """Compute, or read from the cache, the facts of valid SMILES."""

        rows = keep_json(
            "facts",
            {"rdkit": rdkit.__version__, "smiles": sha256_texts(smiles)},
            lambda: [_fact(text) for text in tqdm(smiles, desc="audit", unit="mol", leave=False)],
        )
        structure, canonical, atoms, mixture, undefined = zip(*rows, strict=True)
        return Facts(list(structure), list(canonical), np.array(atoms), np.array(mixture), np.array(undefined))

    def groups(self) -> list[np.ndarray]:
        """Indices of the molecules of one structure, for every structure that stands more than once."""
        found = pd.Series(range(len(self.structure))).groupby(self.structure, sort=False)
        return [rows.to_numpy() for _, rows in found if len(rows) > 1]


def _fact(smiles: str) -> tuple[str, str, int, bool, bool]:
    mol = parse_smiles(smiles)
    undefined = any(info.specified == Chem.StereoSpecified.Unspecified for info in Chem.FindPotentialStereo(mol))
    return identity(smiles), Chem.MolToSmiles(mol), mol.GetNumAtoms(), "." in smiles, undefined


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
    facts = Facts.of(molecules.smiles)
    published = all(sha256_file(file.path) == file.sha256 for file in dataset.files)
    kind = dataset.unit or ("classes" if dataset.kind == "classification" else "no unit")
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
    if molecules.dataset.kind == "regression":
        return "-"
    shares = 100 * np.nanmean(molecules.y_true, axis=0)
    low, high = shares.min(), shares.max()
    return f"{low:.1f} %" if len(shares) == 1 else f"{low:.1f}-{high:.1f} %"
