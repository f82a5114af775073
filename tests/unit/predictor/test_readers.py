"""Molecules read as a stream from all file formats; every row of the file gives a row."""

import bz2
import gzip
import lzma
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from backports import zstd
from rdkit import Chem

from kflm2.data.tables import read_csv
from kflm2.errors import DataError, MoleculeError
from kflm2.predictor.readers import MoleculeReader


def _reader(path: Path, name: str | None = None, column: str = "smiles") -> MoleculeReader:
    table = path.suffix in (".csv", ".xlsx", ".parquet")
    return MoleculeReader.of((str(path),), column if table else None, name)


def _rows(reader: MoleculeReader) -> list[tuple[str, str]]:
    """SMILES (or "! reason") and name of every row."""
    rows = []
    for row in reader.rows():
        try:
            rows.append((reader.smiles(row), row.name))
        except MoleculeError as error:
            rows.append((f"! {error}", row.name))
    assert reader.count() == len(rows)
    return rows


def test_columns_that_a_model_needs_come_with_every_row_or_are_asked_for(tmp_path: Path) -> None:
    frame = pd.DataFrame({"pH": ["7,4", None], "smiles": ["CCO", "CC"], "assay": ["A", "B"]})
    frame.to_csv(tmp_path / "a.csv", index=False, sep=";")
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
    (tmp_path / "a.sdf").write_text(f"{block}> <assay>\nA\n\n> <pH>\n7,4\n\n$$$$\n{block}> <assay>\nB\n\n$$$$\n")
    for name in ("a.csv", "a.parquet", "a.xlsx", "a.sdf"):
        path = (str(tmp_path / name),)
        reader = MoleculeReader.of(path, None, None, keep=True, features=("assay", "pH"))
        assert [row.features for row in reader.rows()] == [("A", "7,4"), ("B", "")], name
        if name != "a.sdf":
            assert reader.keep == ("pH", "assay")
            assert [row.cells for row in reader.rows()] == [("7,4", "A"), ("", "B")]
            with pytest.raises(DataError, match=r"also needs the columns cell, time; it has: 'pH', 'smiles'"):
                MoleculeReader.of(path, None, None, features=("cell", "pH", "time"))
    (tmp_path / "a.smi").write_text("CCO\n")
    for word in (str(tmp_path / "a.smi"), "CCO", "-"):
        with pytest.raises(DataError, match=r"also needs the column pH, which .* not have: give a table.*smiles,pH"):
            MoleculeReader.of((word,), None, None, features=("pH",))


def test_the_column_of_smiles_is_the_models_or_the_only_one_and_the_others_come_along(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [7, 8], "Canonical_SMILES": ["CCO", "C,C"], "mol": ["CN", "CC"], "y": [0.5, None]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_excel(tmp_path / "a.xlsx", index=False)
    for name in ("a.csv", "a.parquet", "a.xlsx"):
        words = (str(tmp_path / name),)
        reader = MoleculeReader.of(words, None, "id", "mol", keep=True)
        assert (_rows(reader), reader.keep) == ([("CN", "7"), ("CC", "8")], ("Canonical_SMILES", "y"))
        assert [row.cells[0] for row in reader.rows()] == ["CCO", "C,C"]
        found = MoleculeReader.of(words, None, None, "other", keep=True)
        assert (_rows(found), found.keep) == ([("CCO", ""), ("C,C", "")], ("id", "mol", "y"))
        assert MoleculeReader.of(words, "mol", None).keep == ()
        with pytest.raises(DataError, match=r"no column 'smile'"):
            list(MoleculeReader.of(words, "smile", None).rows())
    frame.assign(smiles_2="C").to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(DataError, match=r"which column holds the SMILES: 'Canonical_SMILES', 'smiles_2'\?"):
        MoleculeReader.of((str(tmp_path / "b.csv"),), None, None)


def test_columns_of_the_same_name_or_of_none_come_along_too(tmp_path: Path) -> None:
    """pandas writes its index without a name; a spreadsheet writes delimiters behind its last column."""
    (tmp_path / "a.csv").write_text(",smiles,note,note,,note_2,,\n0,CCO,a,b,c,d,,\n")
    cells = [["", "smiles", "note", "note", "", "note_2", ""], [0, "CCO", "a", "b", "c", "d", ""]]
    pd.DataFrame(cells).to_excel(tmp_path / "a.xlsx", index=False, header=False)
    for name in ("a.csv", "a.xlsx"):
        reader = MoleculeReader.of((str(tmp_path / name),), None, None, keep=True)
        assert reader.keep == ("column_1", "note", "note_3", "column_5", "note_2")
        assert [row.cells for row in reader.rows()] == [("0", "a", "b", "c", "d")]
        with pytest.raises(DataError, match="2 columns are named 'note'"):
            list(MoleculeReader.of((str(tmp_path / name),), None, "note").rows())


def test_an_empty_name_of_a_column_of_names_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("smiles,A,B\nCCO,1,2\n")
    reader = MoleculeReader.of((str(tmp_path / "a.csv"),), None, "", keep=True)
    (row,) = reader.rows()
    assert (reader.keep, row.cells) == (("A", "B"), ("1", "2"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_any_delimiter_and_encoding(tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = tmp_path / "a.csv"
    lines = [["id", "smiles"], ["ä", " CCO "], ["2", "c1ccccc1"]]
    path.write_text("\r\n".join(delimiter.join(line) for line in lines) + "\r\n\r\n", encoding=encoding)
    assert _rows(_reader(path, "id")) == [("CCO", "ä"), ("c1ccccc1", "2")]


def test_a_row_with_the_wrong_number_of_cells_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('smiles,id\nCCO,1\nCC,2,3\nC\n,\n"C,C",4\n')
    texts = [text for text, _ in _rows(_reader(path))]
    assert texts[0] == "CCO" and texts[3:] == ["", "C,C"]
    assert dict(_rows(_reader(path, "id")))[texts[1]] == "2"
    assert texts[1] == "! a row of 3 cells, where the header has 2" and texts[2].startswith("! a row of 1 cells")


@pytest.mark.parametrize("header", ["smiles", "smiles,id,x"])
def test_a_line_of_blanks_is_no_row_as_in_training(tmp_path: Path, header: str) -> None:
    rest = ",1,2" if "," in header else ""
    (tmp_path / "a.csv").write_text(f"{header}\nCCO{rest}\n   \n\t\nCC{rest}\n")
    assert _rows(_reader(tmp_path / "a.csv")) == [("CCO", ""), ("CC", "")]
    table = read_csv(tmp_path / "a.csv", ["smiles"])
    assert table.columns["smiles"] == ["CCO", "CC"]


def test_a_missing_smiles_as_pandas_writes_it_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    pd.DataFrame({"smiles": ["CCO", None, "C"]}).to_csv(path, index=False)
    assert _rows(_reader(path)) == [("CCO", ""), ("", ""), ("C", "")]


def test_a_name_in_windows_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("smiles,id\nCCO,Äthanol\n".encode("cp1252"))
    assert _rows(_reader(path, "id")) == [("CCO", "Äthanol")]


def test_a_cell_longer_than_csv_allows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"smiles,x\n{'C' * 300_000},1\nCC,2\n")
    assert [len(text) for text, _ in _rows(_reader(path))] == [300_000, 2]


def test_smi_lines_have_names_and_blank_lines_are_not_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.smi"
    path.write_text("CCO ethanol  absolute\n\n  c1ccccc1\tbenzene\nC\n")
    assert _rows(_reader(path)) == [("CCO", "ethanol  absolute"), ("c1ccccc1", "benzene"), ("C", "")]


def test_an_invalid_sdf_block_is_a_row_and_the_next_blocks_are_read(tmp_path: Path) -> None:
    blocks = []
    for smiles, name in (("C[C@H](N)C(=O)O", "alanine"), ("c1ccccc1", "benzene")):
        mol = Chem.MolFromSmiles(smiles)
        mol.SetProp("_Name", name)
        blocks.append(Chem.MolToMolBlock(mol) + "> <x>\n1\n\n")
    path = tmp_path / "a.sdf"
    path.write_text("$$$$\n".join([blocks[0], "torn\n  not a block\n", blocks[1]]))
    rows = _rows(_reader(path))
    assert [name for _, name in rows] == ["alanine", "torn", "benzene"]
    assert rows[1][0] == "! RDKit cannot read the SDF block"
    assert [Chem.CanonSmiles(rows[i][0]) for i in (0, 2)] == [Chem.CanonSmiles("C[C@H](N)C(=O)O"), "c1ccccc1"]


def test_two_molecules_in_one_sdf_block_are_an_error(tmp_path: Path) -> None:
    blocks = [Chem.MolToMolBlock(Chem.MolFromSmiles(smiles)) for smiles in ("CCO", "c1ccccc1", "CCN")]
    path = tmp_path / "a.sdf"
    path.write_text(f"{blocks[0]}{blocks[1]}$$$$\n{blocks[2]}$$$$\n")
    assert [text for text, _ in _rows(_reader(path))] == [
        "! two molecules in one SDF block; a line $$$$ is missing",
        "CCN",
    ]


def test_a_column_of_what_has_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("C x\n")
    for word in (str(tmp_path / "a.smi"), "-", "CCO"):
        with pytest.raises(DataError, match="no column 'id' can be read"):
            MoleculeReader.of((word,), None, "id")
        with pytest.raises(DataError, match="no column 'mol' can be read"):
            MoleculeReader.of((word,), "mol", None)


def test_parquet_with_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"s": ["CCO", None, "C"], "id": [1, 2, 3]}).to_parquet(path)
    assert _rows(_reader(path, "id", "s")) == [("CCO", "1"), ("", "2"), ("C", "3")]


def test_command_line_arguments_are_smiles() -> None:
    words = ("CCO", "C.smi.no", "[Na+].Cl", "c1ccccc1.c1ccccc1")
    assert _rows(MoleculeReader.of(words, None, None)) == [(word, "") for word in words]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "SMILES,x\nC,1\n", "no column 'smiles' (did you mean 'SMILES'?); it has: 'SMILES', 'x'"),
        ("a.csv", "", "is empty"),
        ("a.csv", 'smiles\n"C\n', "line 2 cannot be read as CSV: unexpected end of data"),
        ("a.xlsx", "no", "cannot be read as a spreadsheet"),
        ("a.ods", "no", "unknown format; .csv, "),
        ("a.csv", "PK\x03\x04 and more", "is a ZIP file; a table is read as .csv"),
        ("a.smi", "%PDF-1.7", "is a PDF; a table is read as .csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        list(_reader(tmp_path / name).rows())
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_an_unreadable_parquet_file_is_an_error_of_count(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        _reader(tmp_path / "a.parquet").count()
    pd.DataFrame({"s": ["C"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="no column 'smiles'; it has: 's'"):
        _reader(tmp_path / "b.parquet").count()


def test_a_missing_file_and_a_file_among_smiles_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file gone\.csv"):
        MoleculeReader.of(("gone.csv",), "smiles", None)
    (tmp_path / "a.csv").write_text("smiles\nC\n")
    with pytest.raises(DataError, match="among other words"):
        MoleculeReader.of(("C", str(tmp_path / "a.csv")), "smiles", None)
    with pytest.raises(DataError, match="is a folder; give one file, or SMILES"):
        MoleculeReader.of((str(tmp_path),), None, None)
    for words in (("CCO", "gone.csv"), ("molecules.cvs",)):
        with pytest.raises(DataError, match=rf"no file {words[-1]}; \.csv, .* are read"):
            MoleculeReader.of(words, None, None)


@pytest.mark.parametrize("suffix", ["csv", "smi", "sdf"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    body = f"{'C' * 100}\n$$$$\n" if suffix == "sdf" else f"{'C' * 100}\n"
    path.write_text("smiles\n" * (suffix == "csv") + body * 50_000)
    reader = _reader(path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in reader.rows()) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "text"), [("csv", "\ufeffid;smiles\r\n1;CCO\r\n2\r\n"), ("smi", "CCO 1\n\nC")])
def test_a_text_has_the_rows_of_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(text.encode())
    column = "id" if name == "csv" else None
    of_text = MoleculeReader("csv" if name == "csv" else "smi", text=text, name_column=column)
    assert _rows(of_text) == _rows(_reader(path, column)) and len(_rows(of_text)) == 2
    other = MoleculeReader(of_text.format, text=f"{text} ", name_column=column)
    assert of_text.digest() != other.digest()


def test_an_error_of_a_text_names_no_file() -> None:
    with pytest.raises(DataError, match=r"^the table: no column 'smiles'; it has: 'x'$"):
        list(MoleculeReader("csv", text="x\n1\n").rows())


@pytest.mark.parametrize(
    ("ending", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd.compress)],
)
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"\xef\xbb\xbfid;smiles\r\n1;CCO\r\n2\r\n\r\n;\r\n3;C\r\n"),
        ("a.csv", "id;smiles\nÄ;CCO\n".encode("cp1252")),
        ("a.csv", "id\tsmiles\nÄ;\tCCO\n".encode("utf-16")),
        ("a.smi", b"CCO 1\n\n  C  a b\nC("),
        ("a.sdf", f"{Chem.MolToMolBlock(Chem.MolFromSmiles('CCO'))}$$$$\ntorn\n$$$$\n".encode()),
    ],
)
def test_a_compressed_file_has_the_rows_of_the_plain_one(
    tmp_path: Path, name: str, data: bytes, ending: str, compress: Callable[[bytes], bytes]
) -> None:
    plain, packed = tmp_path / name, tmp_path / f"{name}{ending}"
    plain.write_bytes(data)
    packed.write_bytes(compress(data))
    column = "id" if name == "a.csv" else None
    reader, expected = (MoleculeReader.of((str(path),), None, column, keep=True) for path in (packed, plain))
    assert reader.format == expected.format and reader.keep == expected.keep
    assert _rows(reader) == _rows(expected) and len(_rows(expected)) > 0
    before = reader.digest()
    packed.write_bytes(compress(data.replace(b"C", b"N")))
    assert reader.digest() != before


@pytest.mark.parametrize("suffix", ["csv", "smi", "sdf"])
def test_memory_does_not_grow_with_what_a_compressed_file_holds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}.gz"
    body = f"{'C' * 100}\n$$$$\n" if suffix == "sdf" else f"{'C' * 100}\n"
    path.write_bytes(gzip.compress(("smiles\n" * (suffix == "csv") + body * 50_000).encode()))
    reader = _reader(path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in reader.rows()) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("suffix", "one", "endless"),
    [
        ("smi", "C" * 900 + "\n", "C" * 5000),
        ("sdf", "C\n" * 450 + "$$$$\n", "C\n" * 2500),
        ("csv", "C,1\n", "1," * 2500),
    ],
)
def test_a_molecule_that_never_ends_is_refused_and_many_short_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, one: str, endless: str
) -> None:
    for module in ("kflm2.predictor.text_input", "kflm2.predictor.readers"):
        monkeypatch.setattr(f"{module}.LONGEST", 1000)
    path = tmp_path / f"a.{suffix}.gz"
    head = "smiles,x\n" * (suffix == "csv")
    path.write_bytes(gzip.compress((head + one * 400).encode()))
    assert _reader(path).count() == 400
    path.write_bytes(gzip.compress((head + one * 3 + endless).encode()))
    rows = _reader(path).rows()
    assert [row.problem for row in (next(rows), next(rows), next(rows))] == [""] * 3
    with pytest.raises(DataError, match=r"a molecule of more than 1,000 characters"):
        next(rows)


def test_a_cut_file_gives_its_rows_and_then_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.smi.gz"
    path.write_bytes(gzip.compress(b"CCO\n" * 100)[:-8])
    with pytest.raises(DataError, match=r"a\.smi\.gz cannot be decompressed, it is damaged or incomplete"):
        _reader(path).count()


@pytest.mark.parametrize("name", ["a.parquet.gz", "a.xlsx.xz"])
def test_a_format_that_is_compressed_in_itself_is_refused_in_a_further_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"compressed in itself; decompress the file"):
        _reader(tmp_path / name)
