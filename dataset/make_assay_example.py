"""Make assay_example.csv: a table as an assay leaves it, for docs/guide/assay.md. Its values are made up.

    python dataset/make_assay_example.py

180 rows of 120 molecules of SAMPL.csv. `dG` is SAMPL's value, plus 0.04 kcal/mol for each degree above 25, plus 1 of
the lab Basel, and noise; what is below -8 the method cannot measure, and the cell says so. `reliability` is a weight,
`class` a class in words, and `note` a column that nothing reads.
"""

from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent


def main() -> None:
    """Write the table."""
    rng = np.random.default_rng(0)
    molecules = pd.read_csv(FOLDER / "SAMPL.csv").sample(120, random_state=1)
    table = pd.concat([molecules, molecules.iloc[:60]]).reset_index(drop=True)
    temperature = np.where(table.index < 120, 25, 45)  # half of the molecules were measured at both
    lab = rng.choice(["Basel", "Kyoto"], len(table))
    value = table["expt"] + 0.04 * (temperature - 25) + (lab == "Basel") + rng.normal(0, 0.2, len(table))
    made = pd.DataFrame(
        {
            "id": [f"M{number:03d}" for number in range(1, len(table) + 1)],
            "Canonical_SMILES": table["smiles"],
            "dG": [f"{number:.2f}" if number >= -8 else "<-8" for number in value],
            "temperature": temperature,
            "lab": lab,
            "reliability": rng.choice([1.0, 0.5], len(table), p=[0.8, 0.2]),
            "class": np.where(value < -4, "hydrophilic", "hydrophobic"),
            "note": rng.choice(["", "repeat", "new batch"], len(table)),
        }
    )
    made = made.sample(frac=1, random_state=0).assign(id=made["id"].to_numpy())
    made.to_csv(FOLDER / "assay_example.csv", index=False)


if __name__ == "__main__":
    main()
