"""What GFN2-xTB costs, and how much its numbers depend on the one conformer that is used.

    python benchmark/xtb.py [--molecules 60]

Of random molecules of SAMPL and Lipophilicity: seconds of one core a molecule beside RDKit's descriptors of the same
molecules, and the standard deviation of each column over five conformers, whose random numbers differ, as a share of
its standard deviation over the molecules. The files must exist: `kflm2 datasets get SAMPL Lipophilicity`.
"""

import argparse
import time

import numpy as np

from kflm2.data.datasets import locate
from kflm2.data.reading import read_table
from kflm2.featurize.descriptors import descriptor_rows
from kflm2.featurize.xtb import XTB_COLUMNS, require, xtb_of
from kflm2.text_table import aligned

CONFORMERS = 5


def main() -> None:
    """Compute and print, a dataset after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=60)
    options = parser.parse_args()
    require()
    for name in ("SAMPL", "Lipophilicity"):
        dataset, missing = locate(name)
        if missing:
            print(f"{name}: not here")
            continue
        texts = read_table(dataset).smiles
        chosen = np.random.default_rng(0).choice(len(texts), options.molecules, replace=False)
        _measure(name, [texts[i] for i in chosen])


def _measure(name: str, smiles: list[str]) -> None:
    start = time.perf_counter()
    values = np.array([[xtb_of(text, seed).values for text in smiles] for seed in range(1, CONFORMERS + 1)])
    seconds = (time.perf_counter() - start) / CONFORMERS / len(smiles)
    start = time.perf_counter()
    descriptor_rows("rdkit", smiles)
    ratio = seconds / ((time.perf_counter() - start) / len(smiles))
    failed = int(np.isnan(values[0, :, 0]).sum())
    print(f"\n{name}, {len(smiles)} molecules, {failed} without values")
    print(f"{seconds:.3f} s a molecule, {ratio:.0f} times as long as RDKit's descriptors")
    noise, spread = np.nanstd(values, axis=0), np.nanstd(values.mean(axis=0), axis=0)
    rows = [("", "median", "90th percentile", "median / sd of molecules", "")]
    for k, (column, unit) in enumerate(XTB_COLUMNS.items()):
        middle, high = np.nanquantile(noise[:, k], (0.5, 0.9))
        rows.append((column, f"{middle:.3g}", f"{high:.3g}", f"{middle / spread[k]:.2f}", unit))
    print("standard deviation over five conformers\n" + "\n".join(aligned(rows, left=(0, 4))))


if __name__ == "__main__":
    main()
