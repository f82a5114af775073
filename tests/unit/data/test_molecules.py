"""Tables of molecules: every row is used or rejected with a reason, and invalid tables give an error of one line."""

import csv
import io
import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem

from kflm2.data import datasets, sdf
from kflm2.data.datasets import Dataset, File
from kflm2.data.molecules import MAX_ATOMS, MAX_SMILES_LENGTH, parse_smiles
from kflm2.data.reading import read_table
from kflm2.errors import DataError, MoleculeError, SettingError


def _all_bonded(count: int) -> str:
    """A SMILES of wildcards, each bonded to every other one."""
    numbers = {pair: f"%({number})" for number, pair in enumerate(itertools.combinations(range(count), 2), 1)}
    skipped = {(i, i + 1) for i in range(count - 1)}  # neighbours in the SMILES are bonded by that
    closures = {pair: number for pair, number in numbers.items() if pair not in skipped}
    return "".join("*" + "".join(number for pair, number in closures.items() if i in pair) for i in range(count))


GOOD = ["CCO", "c1ccccc1", "C", "[Na+].[Cl-]", "F/C=C/F"]
BAD = {
    "C(C": "RDKit cannot read it: not a SMILES",
    "C(C)(C)(C)(C)C": "valence",
    "c1cccc1": "kekulize",
    "": "no SMILES",
    "C" * (MAX_SMILES_LENGTH + 1): "are read at most",
    "C" * (MAX_ATOMS + 1): f"too large: {MAX_ATOMS + 1} atoms; {MAX_ATOMS} are read at most",
    _all_bonded(20): "too large: 171 rings; 150 are read at most",
    # RDKit's own errors are C++ exceptions, some of several lines
    "C[#119]": "RDKit cannot read it: Pre-condition Violation",
    # a graph's features are bytes
    "*" + "(C)" * 260: "an atom with 260 neighbours",
    "*" + "([H])" * 260: "an atom with 260 neighbours",
    "[*H40]": "an atom with 40 hydrogens",
    "[Fe+20]": r"an atom of charge \+20",
    "C\0C": "a character that SMILES do not have",
    "CCO ethanol": "a blank inside",
    "CÉ": "a character that SMILES do not have",
}


def _table(folder: Path, text: str | bytes, targets: tuple[str, ...] = ("y",), **columns: str) -> Dataset:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Dataset("table", (File(path),), targets, **columns)


@pytest.mark.parametrize(("smiles", "reason"), BAD.items())
def test_the_error_of_an_unusable_smiles_has_the_reason_and_rdkit_prints_nothing(
    smiles: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MoleculeError, match=f"(?i){reason}"):
        parse_smiles(smiles)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from([*GOOD, *BAD]), min_size=1, max_size=12))
def test_rows_read_are_rows_used_plus_rows_rejected(tmp_path: Path, smiles: list[str]) -> None:
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
    assert [(rejection.row, rejection.smiles) for rejection in molecules.rejected] == [
        (i + 1, text) for i, text in enumerate(smiles) if text in BAD
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("smiles,y\n", "no rows"),
        ("SMILES,y\nCC,1\n", "no column 'smiles' (did you mean 'SMILES'?); it has: 'SMILES', 'y'"),
        ("smiles,z\nCC,1\n", "no column 'y'; it has: 'smiles', 'z'"),
        ("smiles,y\nCC,1\nCO,low\n", "row 2: column 'y' is 'low', not a number"),
        ("smiles,y\nCC,inf\n", "row 1: column 'y' is 'inf', not a number"),
        ("smiles,y\nCC,-inf\n", "row 1: column 'y' is '-inf', not a number"),
        ("smiles,y\nCC,1_0\n", "row 1: column 'y' is '1_0', not a number"),
        ("smiles;y\nCC;1,5\nCO;1.5\n", "row 1: column 'y' is '1,5', and other rows have a decimal point"),
        ("smiles,y,y\nCC,1,2\n", "2 columns are named 'y'"),
        ("smiles,y\nCC,1\nCO,2,3\n", "row 2 (line 3) has 3 cells, the header 2"),
        ("smiles,y\nCC,1\nCO\n", "row 2 (line 3) has 1 cells, the header 2"),
        ('smiles,y\nCC,"1"2\n', "row 1 (line 2) cannot be read as CSV"),
        ('"smiles,y\nCC,1\n', "the header cannot be read as CSV"),
        ("\n \n", "is empty"),
        ('smiles,y\n"CC,1\n', "cannot be read as CSV"),
    ],
)
def test_an_invalid_table_is_an_error_of_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_table(_table(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "table.csv" in str(error.value)


def test_the_error_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*none\.csv"):
        read_table(Dataset("x", (File(tmp_path / "none.csv"),), ("y",)))


def test_a_class_is_0_or_1(tmp_path: Path) -> None:
    table = _table(tmp_path, "smiles,y\nCC,1\nCO,0.0\nCN,2\n", task="classification")
    with pytest.raises(DataError, match=r"row 3: column 'y' is '2' beside '1' and '0\.0'; a class is 0 or 1"):
        read_table(table)
    assert read_table(table, limit=2).y_true[:, 0].tolist() == [1.0, 0.0]


def test_a_blank_target_is_a_missing_label_and_a_row_without_labels_is_rejected(tmp_path: Path) -> None:
    molecules = read_table(_table(tmp_path, "smiles,a,b\nCC,1, \nCO,,\nCN,,-3e2\n", ("b", "a")))
    np.testing.assert_array_equal(molecules.y_true, [[np.nan, 1.0], [-300.0, np.nan]])
    assert [(rejection.row, rejection.reason) for rejection in molecules.rejected] == [(2, "no target value")]


@pytest.mark.parametrize("cell", ["NA", "nan", "N/A", "null", "None", " "])
def test_missing_values_of_spreadsheets_are_missing_labels(tmp_path: Path, cell: str) -> None:
    molecules = read_table(_table(tmp_path, f"smiles,a,b\nCC,1,{cell}\nCO,2,3\n", ("a", "b")))
    np.testing.assert_array_equal(molecules.y_true, [[1.0, np.nan], [2.0, 3.0]])
    assert molecules.missing == 1


ROWS = [("CC", 'a, "b"', "1"), (" C#N", "é", "2"), ("C(", "", "-3.5"), ("c1ccccc1", "x|y;z\t", "1e-3")]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_encodings_line_ends_quotes_and_blank_lines(
    tmp_path: Path, delimiter: str, end: str, encoding: str, quoting: Literal[0, 1]
) -> None:
    """Tables written by the standard library's csv.writer."""
    path = tmp_path / "table.csv"
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
        writer.writerow(["smiles", "name", "y"])
        for row in ROWS:
            writer.writerow(row)
            file.write(end)
        file.write(f"  {end}{end}")
    molecules = read_table(Dataset("table", (File(path),), ("y",)))
    assert (molecules.read, molecules.padded) == (4, 1)
    assert molecules.smiles == ["CC", "C#N", "c1ccccc1"]
    assert molecules.rows.tolist() == [1, 2, 4]
    assert molecules.y_true[:, 0].tolist() == [1.0, 2.0, 0.001]
    assert [rejection.row for rejection in molecules.rejected] == [3]


def test_an_invalid_byte_affects_its_row_only(tmp_path: Path) -> None:
    molecules = read_table(_table(tmp_path, b"smiles,name,y\nCC,caf\xe9,1\nC\xe9,b,2\n"))
    assert molecules.smiles == ["CC"]
    assert [rejection.row for rejection in molecules.rejected] == [2]


def test_one_row_is_a_table_and_a_row_of_empty_cells_is_a_row(tmp_path: Path) -> None:
    molecules = read_table(_table(tmp_path, "smiles,y\nCC,1\n,\n"))
    assert (molecules.read, molecules.smiles) == (2, ["CC"])
    assert [rejection.reason for rejection in molecules.rejected] == ["no SMILES"]


def test_empty_lines_above_the_header_are_skipped(tmp_path: Path) -> None:
    assert read_table(_table(tmp_path, "\n,\n \nsmiles,y\nCC,1\n")).smiles == ["CC"]


def test_the_error_of_an_invalid_part_gives_row_and_column(tmp_path: Path) -> None:
    text = "smiles,y,part\nCC,1,train\nC(,2,valid\nCO,3, test \nCN,4,test_two\n"
    molecules = read_table(_table(tmp_path, text), split_column="part")
    assert molecules.parts == ["train", "test", "test_two"]
    for part in ("Test", "", "tests"):
        table = _table(tmp_path, f"{text}CS,5,{part}\n")
        with pytest.raises(DataError, match=rf"table\.csv: row 5: column 'part' is '{part}'; a part is train"):
            read_table(table, split_column="part")


def test_a_column_that_is_not_used_may_occur_twice(tmp_path: Path) -> None:
    assert read_table(_table(tmp_path, "id,smiles,id,y\n1,CC,1,5\n")).y_true.tolist() == [[5.0]]


def test_files_of_a_dataset_are_read_in_order(tmp_path: Path) -> None:
    for name, rows in (("train", "CC,1\nC(,2"), ("one", "CO,3"), ("two", "N(,4\nCN,5")):
        (tmp_path / f"{name}.csv").write_text(f"smiles,y\n{rows}\n")
    files = (("train", "train"), ("one", "test_one"), ("two", "test_two"))
    dataset = Dataset("x", tuple(File(tmp_path / f"{name}.csv", part=part) for name, part in files), ("y",))
    molecules = read_table(dataset)
    assert molecules.rows.tolist() == [1, 3, 5]
    assert molecules.parts == ["train", "test_one", "test_two"]
    assert [rejection.row for rejection in molecules.rejected] == [2, 4]
    # row numbers do not depend on the limit
    first = read_table(dataset, limit=1)
    assert (first.read, first.rows.tolist(), [rejection.row for rejection in first.rejected]) == (3, [1, 3], [4])
    (tmp_path / "two.csv").write_text("smiles,y\nCC,low\n")
    with pytest.raises(DataError, match=r"two\.csv: row 1: column 'y' is 'low'"):
        read_table(dataset)


def test_limit_reads_the_first_rows_only(tmp_path: Path) -> None:
    molecules = read_table(_table(tmp_path, "smiles,y\nCC,1\nC(,2\nCO,3\nCN,4\n"), limit=3)
    assert (molecules.read, molecules.smiles) == (3, ["CC", "CO"])


def test_reject_preserves_counts_order_and_parts(tmp_path: Path) -> None:
    table = _table(tmp_path, "smiles,y,part\nCC,1,train\nC(,2,test\nCO,3,test\nCN,4,valid\n")
    molecules = read_table(table, split_column="part").reject({1: "too long"})
    assert molecules.read == 4
    assert molecules.smiles == ["CC", "CN"]
    assert molecules.parts == ["train", "valid"]
    assert molecules.y_true[:, 0].tolist() == [1.0, 4.0]
    assert [rejection.row for rejection in molecules.rejected] == [2, 3]
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
    lines = (Path(__file__).parents[3] / "dataset" / "zinc_sample.smi").read_text().splitlines()
    assert len(set(lines)) == 5000
    for text in lines[::50]:
        parse_smiles(text)


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("[H]/[NH+]=C(/c1ccccc1)N", "[NH2+]=C(c1ccccc1)N"),
        ("[H]/N=C(\\C)N", "N=C(C)N"),
        ("[H:1]/N=C/C", "N=CC"),
        ("[H]/N=N/[H]", "N=N"),
        ("[H]/C(C)=C(/[H])C", "C/C=C/C"),
        ("[C@](F)(Cl)(Br)[H]", "[C@H](F)(Br)Cl"),
    ],
)
def test_written_hydrogens_are_not_atoms_of_the_graph(written: str, usual: str) -> None:
    mol = parse_smiles(written)
    assert mol.GetNumAtoms() == parse_smiles(usual).GetNumAtoms()
    assert Chem.MolToSmiles(mol) == Chem.CanonSmiles(usual)


@pytest.mark.parametrize(("smiles", "atoms"), [("[H][H]", 2), ("[2H]C", 2), ("[H+]", 1), ("*[H]", 2), ("[H][H].C", 3)])
def test_hydrogens_that_are_more_than_a_bonds_end_stay(smiles: str, atoms: int) -> None:
    assert parse_smiles(smiles).GetNumAtoms() == atoms


def _sdf(path: Path, blocks: list[str], properties: list[dict[str, str]]) -> Path:
    items = ["".join(f"> <{name}>\n{value}\n\n" for name, value in row.items()) for row in properties]
    path.write_text("".join(f"{block}{item}$$$$\n" for block, item in zip(blocks, items, strict=True)))
    return path


def test_an_sdf_is_a_table_of_its_properties(tmp_path: Path) -> None:
    blocks = [Chem.MolToMolBlock(Chem.MolFromSmiles(smiles)) for smiles in ("OCC", "c1ccccc1", "CCN", "[NH4+].[Cl-]")]
    blocks[2] = blocks[2].replace("  3  2", " 99  2")
    properties = [{"logS": "-1.5", "part": "train"}, {"part": "test"}, {"logS": "2"}, {"part": "valid", "logS": "3e-1"}]
    path = _sdf(tmp_path / "a.sdf", blocks, properties)
    molecules = read_table(Dataset("a", (File(path),), ("logS",)))
    assert molecules.smiles == ["CCO", "[Cl-].[NH4+]"] and molecules.y_true[:, 0].tolist() == [-1.5, 0.3]
    assert [(rejection.row, rejection.reason) for rejection in molecules.rejected] == [
        (2, "no target value"),
        (3, "RDKit cannot read the SDF block"),
    ]
    with pytest.raises(DataError, match=r"a\.sdf: no property 'x'; it has: 'logS', 'part'$"):
        read_table(Dataset("a", (File(path),), ("x",)))
    properties[3]["logS"] = "low"
    low = Dataset("a", (File(_sdf(path, blocks, properties)),), ("logS",))
    with pytest.raises(DataError, match="row 4: column 'logS' is 'low', not a number"):
        read_table(low)


def test_properties_are_those_that_rdkit_reads(tmp_path: Path) -> None:
    mol = Chem.MolFromSmiles("CCO")
    values = {"a b": "1", "text": "two\nlines", "empty": ""}
    for name, value in values.items():
        mol.SetProp(name, value)
    with Chem.SDWriter(str(tmp_path / "a.sdf")) as writer:
        writer.write(mol)
    (expected,) = Chem.SDMolSupplier(str(tmp_path / "a.sdf"))
    for text in ((tmp_path / "a.sdf").read_text(), (tmp_path / "a.sdf").read_text().replace("\n", "\r\n")):
        (block,) = sdf.blocks(io.StringIO(text, newline=""))
        assert sdf.properties(block) == expected.GetPropsAsDict(autoConvertStrings=False)


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.csv", b"PK\x03\x04\x14\0", "a ZIP file"),
        ("a.csv", b"PAR1\x15\x04", "a Parquet file"),
        ("b.csv", b"\x1f\x8b\x08", "a gzipped file"),
    ],
)
def test_a_file_of_another_kind_is_an_error_that_says_what_is_read(
    tmp_path: Path, name: str, data: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        DataError,
        match=rf"{name} is {what}; a table is read as \.csv .* or \.sdf, a compressed one as \.csv\.gz or \.sdf\.gz$",
    ):
        read_table(Dataset("a", (File(tmp_path / name),), ("y",)))
