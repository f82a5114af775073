"""Write kflm2/resources/reference_molecules.smi: few molecules that cover many values of RDKit's descriptors.

python dataset/make_reference_molecules.py
"""

from pathlib import Path

import numpy as np
import pandas as pd

from kflm2.featurize.descriptors import compute_descriptors
from kflm2.files import write_text
from kflm2.resources import REFERENCE, packaged

COUNT = 44
BINS = 4
CANDIDATES = 8000
BY_HAND = (
    "CC(=O)[O-].[Na+]",
    "C[NH+](C)CCOC(c1ccccc1)c1ccccc1.[Cl-]",
    "C[Si](C)(C)OP(=O)(O)OB(O)O",
    "O=[N+]([O-])c1cc(I)[nH]n1",
    "[N-]=[N+]=NCCSC#N",
    "O=C=NCCN=C=S",
    "O=NN(C)CC[N+](C)(C)[O-]",
    "N#[N+]c1ccc(N=Nc2ccccc2)cc1",
    "CCC1(c2ccccc2)C(=O)NC(=O)NC1=O",
    "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "COC(=O)C1=C(C)NC(C)=C(C(=O)OC)C1c1ccccc1",
    "CC(C)NC(=N)NCCO",
    "C[CH2]",
)
"""Salts, elements and groups that the others lack."""


def main() -> None:
    """Take, again and again, the molecule with most descriptors in ranges of values that no molecule before has."""
    folder = Path(__file__).parent
    smiles = [
        *pd.read_csv(folder / "SAMPL.csv")["smiles"],
        *pd.read_parquet(folder / "knowledge_xtb.parquet", columns=["smiles"])["smiles"],
    ][:CANDIDATES]
    values = pd.DataFrame(compute_descriptors("rdkit", smiles))
    bins = values.apply(_bins)
    cells = np.char.add(np.arange(bins.shape[1]).astype(str), np.char.add(":", bins.to_numpy().astype(str)))
    missing, chosen = set(cells.ravel()), list[int]()
    while len(chosen) < COUNT:
        row = max(range(len(smiles)), key=lambda i: len(missing.intersection(cells[i])))
        chosen.append(row)
        missing -= set(cells[row])
    path = packaged(REFERENCE)
    write_text(path, "".join(f"{text}\n" for text in (*BY_HAND, *(smiles[i] for i in sorted(chosen)))))
    print(f"{path}: {len(BY_HAND) + COUNT} SMILES; {len(missing)} of {len(set(cells.ravel()))} ranges are in none")


def _bins(column: pd.Series) -> pd.Series:
    """A bin for each of few values; of many one for the most frequent value, and quantiles of the others."""
    if column.nunique() <= BINS:
        return pd.Series(pd.factorize(column)[0])
    others = column[(column != column.mode()[0]) & column.notna()]
    return pd.qcut(others.rank(), BINS, labels=False, duplicates="drop").reindex(column.index, fill_value=-1)


if __name__ == "__main__":
    main()
