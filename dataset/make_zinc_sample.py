"""Write dataset/zinc_sample.smi: 5,000 SMILES drawn from the ZINC Clean Leads that the molsets wheel carries.

python dataset/make_zinc_sample.py
"""

import gzip
from pathlib import Path

import numpy as np

from kflm2.data.wheels import member_of_wheel
from kflm2.files import write_text

ROWS = 5000
SEED = 0


def main() -> None:
    """Download the wheel, draw without replacement with a fixed seed, write in the wheel's order."""
    path = Path(__file__).parent / "zinc_sample.smi"
    packed = member_of_wheel("molsets==0.3.1", "moses/dataset/data/train.csv.gz")
    with gzip.open(packed, "rt", encoding="utf-8") as lines:
        smiles = [line.split(",")[0].strip() for line in lines][1:]
    chosen = np.sort(np.random.default_rng(SEED).choice(len(smiles), ROWS, replace=False))
    write_text(path, "".join(f"{smiles[i]}\n" for i in chosen))
    print(f"{path}: {ROWS} of {len(smiles)} SMILES, seed {SEED}")


if __name__ == "__main__":
    main()
