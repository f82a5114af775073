"""Tables of molecules: every row is kept or rejected with its reason, and bad tables are refused in one line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kflm2.data import datasets
from kflm2.data.datasets import Dataset
from kflm2.data.molecules import MAX_SMILES_LENGTH, parse_smiles, read_table
from kflm2.errors import DataError, MoleculeError, SettingError

GOOD = ["CCO", "c1ccccc1", "C", "[Na+].[Cl-]", "F/C=C/F"]
BAD = {
    "C(C": "RDKit cannot read it: not a SMILES",
    "C(C)(C)(C)(C)C": "valence",
    "c1cccc1": "kekulize",
    "": "no SMILES",
    "C" * (MAX_SMILES_LENGTH + 1): "are read at most",
    "C1" * 1001: "digits",
}


def _table(folder: Path, text: str | bytes, targets: tuple[str, ...] = ("y",), **columns: str) -> Dataset:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Dataset("table", path, targets, **columns)


@pytest.mark.parametrize(("smiles", "reason"), BAD.items())
def test_an_unusable_smiles_says_why_and_rdkit_keeps_quiet(
    smiles: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MoleculeError, match=f"(?i){reason}"):
        parse_smiles(smiles)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from([*GOOD, *BAD]), min_size=1, max_size=12))
def test_rows_read_are_rows_kept_plus_rows_rejected(tmp_path: Path, smiles: list[str]) -> None:
    table = _table(tmp_path, "smiles,y\n" + "".join(f"{text},{i}\n" for i, text in enumerate(smiles)))
    good = [i for i, text in enumerate(smiles) if text in GOOD]
    if not good:
        with pytest.raises(DataError, match=f"none of {len(smiles)} rows is a valid molecule; row 1 "):
            read_table(table)
        return
    molecules = read_table(table)
    assert molecules.read == len(smiles) == len(molecules.smiles) + len(molecules.rejected)
    assert molecules.smiles == [smiles[i] for i in good]
    assert molecules.rows.tolist() == [i + 1 for i in good]
    assert molecules.y_true[:, 0].tolist() == good
    assert [(own.row, own.smiles) for own in molecules.rejected] == [
        (i + 1, text) for i, text in enumerate(smiles) if text in BAD
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("smiles,y\n", "no rows"),
        ("SMILES,y\nCC,1\n", "no column 'smiles'; it has: 'SMILES', 'y'"),
        ("smiles,z\nCC,1\n", "no column 'y'; it has: 'smiles', 'z'"),
        ("smiles,y\nCC,1\nCO,low\n", "row 2: column 'y' is 'low', not a number"),
        ("smiles,y\nCC,inf\n", "row 1: column 'y' is 'inf', not a number"),
        ("smiles,y\nCC,nan\n", "row 1: column 'y' is 'nan', not a number"),
        ('smiles,y\n"CC,1\n', "cannot be read as CSV"),
        (b"smiles,y\nCC,1\nC\xe9,2\n", "cannot be read as CSV"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(DataError) as caught:
        read_table(_table(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "table.csv" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*none\.csv"):
        read_table(Dataset("x", tmp_path / "none.csv", ("y",)))


def test_a_class_is_0_or_1(tmp_path: Path) -> None:
    table = _table(tmp_path, "smiles,y\nCC,1\nCO,0.0\nCN,2\n", kind="classification")
    with pytest.raises(DataError, match="row 3: column 'y' is '2'; a class is 0 or 1"):
        read_table(table)
    assert read_table(table, limit=2).y_true[:, 0].tolist() == [1.0, 0.0]


def test_a_blank_target_is_a_missing_label_and_none_at_all_a_rejection(tmp_path: Path) -> None:
    molecules = read_table(_table(tmp_path, "smiles,a,b\nCC,1, \nCO,,\nCN,,-3e2\n", ("b", "a")))
    np.testing.assert_array_equal(molecules.y_true, [[np.nan, 1.0], [-300.0, np.nan]])
    assert [(own.row, own.reason) for own in molecules.rejected] == [(2, "no target value")]


def test_byte_order_mark_carriage_returns_quotes_and_outer_blanks(tmp_path: Path) -> None:
    text = '\ufeffsmiles,name,y\r\n CC ,"a, ""b""",1\r\n"C#N",c,2\r\n'
    molecules = read_table(_table(tmp_path, text))
    assert molecules.smiles == ["CC", "C#N"]
    assert molecules.y_true[:, 0].tolist() == [1.0, 2.0]


def test_the_first_rows_only(tmp_path: Path) -> None:
    molecules = read_table(_table(tmp_path, "smiles,y\nCC,1\nC(,2\nCO,3\nCN,4\n"), limit=3)
    assert (molecules.read, molecules.smiles) == (3, ["CC", "CO"])


def test_rejecting_later_keeps_count_order_and_parts(tmp_path: Path) -> None:
    table = _table(tmp_path, "smiles,y,part\nCC,1,train\nC(,2,test\nCO,3,test\nCN,4,valid\n")
    molecules = read_table(table, split_column="part").reject({1: "too long"})
    assert molecules.read == 4
    assert molecules.smiles == ["CC", "CN"]
    assert molecules.parts == ["train", "valid"]
    assert molecules.y_true[:, 0].tolist() == [1.0, 4.0]
    assert [own.row for own in molecules.rejected] == [2, 3]
    with pytest.raises(DataError, match="none of 4 rows"):
        molecules.reject({0: "a", 1: "b"})


def test_sampl_is_the_papers_file() -> None:
    molecules = read_table(datasets.find("SAMPL"))
    assert molecules.sha256 == "a4fbf3b28fe2e604d6bd7ea0e20b4494ff732400a80f58d1b393677cfbc1b06c"
    assert (molecules.read, len(molecules.smiles), molecules.rejected) == (642, 642, ())
    assert sum(parse_smiles(text).GetNumAtoms() <= 2 for text in molecules.smiles) == 14
    with pytest.raises(SettingError, match="choose one of: SAMPL"):
        datasets.find("sampl")


def test_zinc_sample_holds_5000_molecules() -> None:
    lines = (datasets.find("SAMPL").path.parent / "zinc_sample.smi").read_text().splitlines()
    assert len(set(lines)) == 5000
    for text in lines[::50]:
        parse_smiles(text)
