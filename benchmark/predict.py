"""Speed of `kflm2 predict`, and its memory and order on 100,000 molecules, with kills.

    python benchmark/predict.py speed [--teacher MODEL --student MODEL]
    python benchmark/predict.py large

speed: molecules/s of a crossAtt model of SAMPL and of its student, with one process and with one for each core. A speed
is of a command of many molecules less one of few, so that starting does not count; in each round all take turns, and a
ratio is the median of those within a round. Without models that are given, they are trained first, in about ten
minutes. Then how long a command for one molecule takes, and what share of the limit crossAtt reaches: at the limit all
cores would only multiply by the weights of the LLM's layers, at the speed at which they multiply large matrices.

large: order, status, memory compared with 10,000 molecules, and three kills by SIGKILL, of a graph network.

The molecules are ZINC Clean Leads (those of MOSES, from the wheel molsets); for `large`, every hundredth is invalid.
"""

import argparse
import functools
import gzip
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from kflm2.data.wheels import member_of_wheel
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.text_table import aligned

ROWS = 100_000
FEWER = 10_000
BROKEN = 100
"""Every row with a number divisible by this is made invalid."""
KILLS = 3
FEW, MANY = 256, 2304
"""Molecules of the two commands whose difference is a speed of crossAtt."""
STUDENT_TIMES = 10
"""The student predicts this many times as many."""
SIDE = 2048
"""Rows and columns of the matrices that are multiplied to measure the limit."""
KFLM2 = Path(sys.executable).with_name("kflm2")


def molecules(rows: int) -> list[str]:
    """SMILES."""
    wheel = member_of_wheel("molsets==0.3.1", "moses/dataset/data/train.csv.gz")
    with gzip.open(wheel, "rt", encoding="utf-8") as lines:
        return [line.split(",")[0].strip() for line, _ in zip(lines, range(rows + 1), strict=False)][1:]


def with_broken(smiles: list[str]) -> list[str]:
    """Every hundredth is made invalid: it ends with an open bracket."""
    return [f"{text}(" if i % BROKEN == BROKEN - 1 else text for i, text in enumerate(smiles)]


def seconds(model: Path, smiles: list[str], folder: Path, *options: object) -> float:
    """Of one command."""
    (folder / "in.smi").write_text("".join(f"{text}\n" for text in smiles), encoding="utf-8")
    command = [KFLM2, "predict", model, folder / "in.smi", "--out", folder / "out.csv", *options]
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def speed(model: Path, smiles: list[str], folder: Path, counts: tuple[int, int], *options: object) -> float:
    """Molecules/s, from commands for few and for many molecules."""
    few, many = (seconds(model, smiles[:count], folder, *options) for count in counts)
    return (counts[1] - counts[0]) / (many - few)


def limit(model: Path, smiles: list[str]) -> float:
    """Molecules/s if the processor did nothing but multiply by the weights of the LLM's layers, on all cores."""
    bundle = load_bundle(model)
    assert bundle.opened is not None and bundle.opened.loaded is not None
    layers = bundle.opened.loaded.model.get_submodule("layers")
    tokens = statistics.mean(bundle.opened.token_counts(smiles))
    flops = 2 * sum(weight.numel() for weight in layers.parameters()) * tokens
    left, right = torch.randn(2, SIDE, SIDE, dtype=next(layers.parameters()).dtype)
    torch.set_num_threads(joblib.cpu_count(only_physical_cores=True))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best / flops


def measure_speed(teacher: Path | None, student: Path | None, rounds: int) -> None:
    """Measure in turn, and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = functools.partial(subprocess.run, check=True, capture_output=True)
        if teacher is None:
            teacher = folder / "teacher"
            run([str(KFLM2), "train", "SAMPL", "--out", str(folder / "results"), "--save", str(teacher)])
        if student is None:
            student = folder / "student"
            run([str(KFLM2), "distill", str(teacher), "--save", str(student)])
        smiles = molecules(MANY * STUDENT_TIMES)
        cores = joblib.cpu_count(only_physical_cores=True)
        methods = {
            "crossAtt, one process": (teacher, 1, 1),
            f"crossAtt, {cores} processes": (teacher, 1, cores),
            "student, one process": (student, STUDENT_TIMES, 1),
            f"student, {cores} processes": (student, STUDENT_TIMES, cores),
        }
        speeds: dict[str, list[float]] = {method: [] for method in methods}
        starts: dict[str, list[float]] = {"crossAtt": [], "student": []}
        for number in range(1, rounds + 1):
            for method, (model, times, jobs) in methods.items():
                speeds[method].append(speed(model, smiles, folder, (FEW * times, MANY * times), "--jobs", jobs))
            for method, model in (("crossAtt", teacher), ("student", student)):
                starts[method].append(seconds(model, ["CCO"], folder))
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        first = next(iter(speeds.values()))
        rows = [("", "molecules/s", "to the first")]
        for method, values in speeds.items():
            ratio = statistics.median(value / one for value, one in zip(values, first, strict=True))
            rows.append((method, f"{statistics.median(values):,.0f}", f"{ratio:.2f}"))
        print("\n".join(aligned(rows)))
        for method, values in starts.items():
            print(f"one molecule, {method}: {statistics.median(values):.1f} s with starting")
        fastest, most = statistics.median(speeds[f"crossAtt, {cores} processes"]), limit(teacher, smiles[:1000])
        print(f"limit {most:,.0f} molecules/s; crossAtt with {cores} processes reaches {fastest / most:.0%} of it")


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


def check_large() -> None:
    """Run all parts and print the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model"
        train = ["train", "SAMPL", "--model", "gcn_indepent", "--epochs", "30", "--out", str(folder / "results")]
        subprocess.run([str(KFLM2), *train, "--save", str(model)], check=True, capture_output=True)
        smiles = with_broken(molecules(ROWS))
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


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "large"))
    parser.add_argument("--teacher", type=Path, help="a crossAtt model; default one is trained")
    parser.add_argument("--student", type=Path, help="its student; default one is trained")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "large":
        check_large()
    else:
        measure_speed(options.teacher, options.student, options.rounds)


if __name__ == "__main__":
    main()
