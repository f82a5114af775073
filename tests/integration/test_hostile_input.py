"""Thousands of generated hostile lines through `kflm2 predict`: a row each, in order, and none ends the program."""

import csv
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from kflm2.cli import stages

LINES = 10_000
SMILES = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv")["smiles"].tolist()
ATOMS = "C C C c N n O S P F Cl * [H] [2H] [C@H] [C@@] [nH] [NH4+] [O-] [Si] [#119] [#0] [Fe+20] [C-16] [CH99]".split()
ATOMS += "[999C] [1000C] [C:99999] [Xx] [] [ ] ( ) (C) (=O) () 1 2 1 2 %10 %1 %(100) c1ccccc1 @ : 0".split()
BONDS = ["", "", "", "", "", "", "-", "=", "#", "$", ":", "/", "\\", "~", "->", "<-", ".", ".."]
WORDS = ['"', '""', "'", ",", ";", "\t", " ", "C C", "\0", "C\0C", "\ufeff", "naïve", "日本", "-1", "NaN", "=1+1", "ok"]


def _grammar(rng: random.Random) -> bytes:
    return "".join(rng.choice(BONDS) + rng.choice(ATOMS) for _ in range(rng.randint(1, 12))).encode()


def _changed(rng: random.Random) -> bytes:
    """A real SMILES with a character more, or less, or in another place."""
    text = list(rng.choice(SMILES))
    taken = text.pop(rng.randrange(len(text)))
    text.insert(rng.randint(0, len(text)), rng.choice(["", taken, rng.choice(ATOMS)]))
    return "".join(text).encode()


def _star(rng: random.Random) -> bytes:
    center = rng.choice(["*", "C", "[#119]", "[U]", "[Fe]"])
    return f"{center}{f'({rng.choice(ATOMS)})' * rng.choice([5, 33, 260])}".encode()


def _long(rng: random.Random) -> bytes:
    return (
        rng.choice(["C", "CO", "[H]", "*", ".C", "C=", "(", "[", "1", "C1CC1"]) * rng.choice([99, 1001, 5001])
    ).encode()


def _rings(rng: random.Random) -> bytes:
    return "".join(f"C%{rng.randint(10, 99)}" for _ in range(rng.choice([20, 60, 400]))).encode()


def _word(rng: random.Random) -> bytes:
    encoding = rng.choice(["utf-8", "latin-1", "utf-16"])
    return "".join(rng.choices(WORDS, k=rng.randint(1, 3))).encode(encoding, errors="replace")


def _bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(0, 30))


def _lines(seed: int) -> list[bytes]:
    """LINES lines; the first of every ten is a real SMILES."""
    rng = random.Random(seed)
    kinds = rng.choices([_grammar, _changed, _star, _long, _rings, _word, _bytes], [50, 50, 4, 4, 4, 10, 30], k=LINES)
    return [SMILES[i % len(SMILES)].encode() if i % 10 == 0 else kind(rng) for i, kind in enumerate(kinds)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph network: quick to train and to load."""
    folder = tmp_path_factory.mktemp("hostile")
    settings = "--dataset SAMPL --limit 60 --fractions 0.6 0.2 0.2 --model gcn_indepent --epochs 2 --ensemble 2".split()
    stages.train.from_command_line([*settings, "--out", str(folder / "results"), "--save", str(folder / "model")])
    return folder / "model"


def _smi(lines: list[bytes]) -> bytes:
    # line breaks end a line of this format, also a lone carriage return
    return b"".join(
        line.replace(b"\n", b"").replace(b"\r", b"") + f" name{i}\n".encode() for i, line in enumerate(lines)
    )


def _csv(lines: list[bytes]) -> bytes:
    cells = [b'"' + line.replace(b'"', b'""') + b'"' for line in lines]
    return b"smiles,id\n" + b"".join(cell + f",name{i}\n".encode() for i, cell in enumerate(cells))


@pytest.mark.parametrize(("suffix", "write", "seed"), [("smi", _smi, 0), ("csv", _csv, 1)], ids=["smi", "csv"])
def test_every_hostile_line_has_its_row(
    model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    suffix: str,
    write: Callable[[list[bytes]], bytes],
    seed: int,
) -> None:
    source, out = tmp_path / f"a.{suffix}", tmp_path / "o.csv"
    source.write_bytes(write(_lines(seed)))
    names = ["--name-column", "id"] if suffix == "csv" else []
    with pytest.raises(SystemExit) as stop:
        stages.predict.from_command_line([str(model), str(source), "-o", str(out), *names])
    assert stop.value.code == 3
    assert "Traceback" not in capfd.readouterr().err
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [str(i + 1) for i in range(LINES)]
    # of a .smi line the name is all after the first blank, and a name alone is taken for the SMILES
    assert all((row["name"] or row["smiles"]).endswith(f"name{i}") for i, row in enumerate(rows))
    assert [row["status"] for row in rows[::10]] == ["ok"] * (LINES // 10)
    assert all(row["status"] and (row["status"] == "ok") == (row["expt"] != "") for row in rows)
    assert not any("\n" in row["status"] for row in rows)
