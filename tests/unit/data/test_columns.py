"""Which columns of a user's table are meant."""

from pathlib import Path

import pytest
from openpyxl import Workbook

from kflm2.data.columns import find_columns, find_smiles
from kflm2.data.tables import column_names, read_columns
from kflm2.errors import DataError, SettingError


def _table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    return tmp_path / "table.csv"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["id", "smiles", "canonical_smiles"], "smiles"),
        (["id", "SMILES", "y"], "SMILES"),
        (["Canonical_SMILES", "y"], "Canonical_SMILES"),
        (["Smiles", "canonical_smiles"], "Smiles"),
    ],
)
def test_the_column_of_smiles_is_found(names: list[str], found: str) -> None:
    assert find_smiles(Path("t.csv"), names) == found


def test_an_unclear_column_of_smiles_is_asked_about() -> None:
    with pytest.raises(DataError, match=r"which column holds the SMILES: 'parent_smiles', 'salt_smiles'\?"):
        find_smiles(Path("t.csv"), ["parent_smiles", "salt_smiles"])
    with pytest.raises(DataError, match=r"no column 'smiles'; name .* \(--smiles-column\); it has: 'structure', 'y'$"):
        find_smiles(Path("t.csv"), ["structure", "y"])


def test_what_was_found_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _table(tmp_path, "SMILES;active;z\nCC;1;5\nCO;0;6\n")
    assert find_columns(path, None, ["active"], [], None) == ("SMILES", "classification")
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "SMILES: column 'SMILES'",
        "active: two values (0 and 1), so classes; --task regression takes 0 and 1 as numbers",
    ]
    assert find_columns(path, "SMILES", ["active"], [], "regression") == ("SMILES", "regression")
    assert find_columns(path, "SMILES", ["z"], [], None) == ("SMILES", "regression")
    assert capsys.readouterr().out == ""
    path = _table(tmp_path, "smiles,y\n" + "CC,-1\nCO,1\n" * 5)
    assert find_columns(path, None, ["y"], [], None) == ("smiles", "regression")
    assert capsys.readouterr().out == (
        "y: two numbers (-1 and 1), taken as numbers; --task classification makes classes\n"
    )
    # of a third word the error names the row, of a number among words too
    for text, task in (("act,inact,ND,act", "classification"), ("1.5,ND,2,7", "regression")):
        path = _table(tmp_path, "smiles,y\n" + "".join(f"CC,{cell}\n" for cell in text.split(",")))
        assert find_columns(path, None, ["y"], [], None) == ("smiles", task)


def test_the_delimiter_is_one_that_gives_the_targets(tmp_path: Path) -> None:
    path = _table(tmp_path, "smiles;pIC50;note, free, text\nCC;5;a, b, c\nCO;6;d, e, f\n")
    assert find_columns(path, None, ["pIC50"], [], None) == ("smiles", "regression")


def test_a_mixture_and_a_missing_target_are_asked_about(tmp_path: Path) -> None:
    path = _table(tmp_path, "smiles,active,z,name\nCC,yes,5,a\nCO,no,6,b\nCN,no,7,c\n")
    with pytest.raises(SettingError, match="'active' looks like classes and 'z' does not"):
        find_columns(path, None, ["active", "z"], [], None)
    with pytest.raises(SettingError, match=r"--csv needs --target-columns, .* has: 'active', 'z'$"):
        find_columns(path, None, [], [], None)
    with pytest.raises(DataError, match=r"no column 'actve' \(did you mean 'active'\?\); it has"):
        find_columns(path, None, ["actve"], [], None)
    with pytest.raises(DataError, match="no column 'w'"):
        find_columns(path, None, ["z"], ["w"], None)


def test_a_spreadsheet_is_a_table(tmp_path: Path) -> None:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in ([None, None], ["SMILES", "y", "note"], ["CC", 1.0, None], [None, None, None], ["CO", 2.5, "x"]):
        sheet.append(row)
    book.create_sheet("other").append(["not", "read"])
    book.save(tmp_path / "a.xlsx")
    assert column_names(tmp_path / "a.xlsx") == ["SMILES", "y", "note"]
    table = read_columns(tmp_path / "a.xlsx", ["y", "SMILES", "note"], "SMILES")
    assert table.columns == {"y": ["1", "2.5"], "SMILES": ["CC", "CO"], "note": ["", "x"]}
    (tmp_path / "b.xlsx").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(DataError, match=r"b\.xlsx cannot be read as a spreadsheet"):
        read_columns(tmp_path / "b.xlsx", ["y"], "SMILES")
