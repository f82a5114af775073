"""The audit finds the faults of a table and the known duplicates of the published files."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from kflm2.cli import stages
from kflm2.config.datasets import OverviewConfig
from kflm2.config.table import TableConfig
from kflm2.data import datasets
from kflm2.data.datasets import DATASETS, Task
from kflm2.stages.audit.stage import run as audit
from kflm2.stages.datasets import overview

ROWS = """smiles,y,part
CCO,1.0,train
OCC,3.5,test
c1ccccc1,2.0,train
C(,1,test
CCN,,train
 C1=CC=CC=C1,2.0,valid
CC(=O)[O-].[Na+],4.0,train
CC(F)Cl,1.5,test
Oc1ccccn1,0.5,train
O=c1cccc[nH]1,0.5,test
CCCCC,7.0,train
CCCCCC,8.0,valid
"""


def _audit(folder: Path, text: str, task: Task = "regression") -> Path:
    (folder / "own.csv").write_text(text)
    config = TableConfig(
        csv=folder / "own.csv", target_columns=("y",), split_column="part", task=task, out=folder / "out"
    )
    audit(config)
    return folder / "out" / "own" / "audit-given-0"


def test_every_fault_of_a_table_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _audit(tmp_path, ROWS)
    assert pd.read_csv(folder / "rejected.csv")["row"].tolist() == [4, 5]
    duplicates = pd.read_csv(folder / "duplicates.csv")
    groups = {tuple(group["row"]): group for _, group in duplicates.groupby("group")}
    assert set(groups) == {(1, 2), (3, 6), (9, 10)}
    for rows, agree, canonical, spread in (
        ((1, 2), False, True, 2.5),
        ((3, 6), True, True, 0),
        ((9, 10), True, False, 0),
    ):
        group = groups[rows]
        assert set(group["agree"]) == {agree}
        assert set(group["canonical"]) == {canonical}
        assert set(group["spread"]) == {spread}
    leaks = pd.read_csv(folder / "leakage.csv").set_index("row")
    assert leaks["seen_row"].to_dict() == {2: 1, 10: 9}
    assert leaks["agree"].to_dict() == {2: False, 10: True}
    similarity = pd.read_csv(folder / "similarity.csv")
    assert similarity["row"].tolist() == [2, 8, 10]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    for row in similarity.itertuples():
        fingerprints = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in (row.smiles, row.nearest_smiles)]
        assert row.tanimoto == pytest.approx(DataStructs.TanimotoSimilarity(*fingerprints))
    assert similarity["nearest_row"].tolist()[0] == 1
    summary = json.loads((folder / "audit.json").read_text())
    assert summary["rows"] == {"read": 12, "kept": 10, "rejected": 2}
    assert summary["smiles"] == {
        "padded": 1,
        "longest": 16,
        "one_or_two_atoms": 0,
        "salts_or_mixtures": 1,
        "undefined_stereo": 1,
    }
    assert summary["duplicates"]["same_structure"] == 3
    assert summary["duplicates"]["same_canonical_smiles"] == 2
    assert summary["leakage"] == {
        "test_molecules": 3,
        "same_structure": 2,
        "same_canonical_smiles": 1,
        "with_another_label": 1,
    }
    assert (folder / "audit.png").read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert "of 3 test molecules 1 are in train or valid by canonical SMILES, 2 by InChIKey, 1 with another" in printed


def test_labels_that_cannot_be_compared_neither_agree_nor_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bound beside a number, and labels of two targets."""
    rows = [f"{'C' * (i + 2)}N,{i},{i},{('train', 'valid', 'test')[i % 3]}" for i in range(12)]
    rows += ["CCO,>5,,train", "OCC,2,,test", "CCF,1,,train", "FCC,,2,test", "CCCl,3,,train", "ClCC,3,,train"]
    (tmp_path / "own.csv").write_text("\n".join(["smiles,y,z,part", *rows]) + "\n")
    columns = {"target_columns": ("y", "z"), "split_column": "part", "task": "regression"}
    config = TableConfig(csv=tmp_path / "own.csv", out=tmp_path / "out", **columns)
    audit(config)
    printed = capsys.readouterr().out
    assert "more than once: 3; labels agree in 1 and differ in 0, median difference 0, largest 0; 2 have no" in printed
    assert "2 by InChIKey, 0 with another label" in printed and "note: the audit" not in printed
    assert pd.read_csv(tmp_path / "out" / "own" / "audit-given-0" / "duplicates.csv")["agree"].isna().sum() == 4
    # another table of this name
    (tmp_path / "own.csv").write_text("\n".join(["smiles,y,z,part", *rows[:-4]]) + "\n")
    audit(config)
    assert "was of another table or split; this one replaces it" in capsys.readouterr().out
    audit(config)
    assert "note: the audit" not in capsys.readouterr().out


def test_a_clean_table_of_classes_has_nothing_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{'C' * (i + 1)},{i % 2},{('train', 'valid', 'test')[i % 3]}" for i in range(12)]
    folder = _audit(tmp_path, "\n".join(["smiles,y,part", *rows]) + "\n", "classification")
    assert len(pd.read_csv(folder / "duplicates.csv")) == len(pd.read_csv(folder / "leakage.csv")) == 0
    assert "duplicates  none" in capsys.readouterr().out


# further rows of a structure by canonical SMILES and by InChIKey
DUPLICATES = {"Delaney": (11, 11), "Warrior": (446, 464), "BBBP": (64, 68), "ClinTox": (19, 23), "Llinas": (0, 1)}


@pytest.mark.parametrize("name", DUPLICATES)
def test_the_known_duplicates_of_the_published_files_are_found(name: str, dataset_files: None, tmp_path: Path) -> None:
    audit(TableConfig(dataset=name, out=tmp_path))
    (path,) = tmp_path.glob(f"{name}/audit-*/audit.json")
    summary = json.loads(path.read_text())
    duplicates = summary["duplicates"]
    assert (duplicates["same_canonical_smiles"], duplicates["same_structure"]) == DUPLICATES[name]
    if name == "Llinas":
        # the InChIKey in both parts is a sulfonamide in another tautomeric form
        assert summary["leakage"]["test_molecules"] == 132
        assert summary["leakage"]["same_canonical_smiles"] == 0
        assert summary["leakage"]["same_structure"] == 1


def test_the_overview_lists_present_and_missing_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(datasets.find("SAMPL").path, tmp_path / "SAMPL.csv")
    (tmp_path / "bace.csv").write_text("SMILES,label\nCC,1,0\n")
    (tmp_path / "BBBP.csv").write_text("num,name,p_np,smiles\n1,a,1,CCO\n2,b,1,OCC\n3,c,0,C.O\n4,d,0,C(\n5,e,,CN\n")
    monkeypatch.setattr(datasets, "project_folder", lambda: tmp_path / "nowhere")
    monkeypatch.setenv("KFLM2_DATASETS", str(tmp_path))
    overview(OverviewConfig())
    printed = capsys.readouterr().out.splitlines()
    lines = {line.split()[0]: line for line in printed if line and line.split()[0] in DATASETS}
    assert list(lines) == list(DATASETS)
    assert lines["SAMPL"].split() == "SAMPL 642 0 1 (kcal/mol) 0 - 0 0 2".split()
    assert lines["BBBP"].split() == "BBBP 5 2 1 (classes), not the published file 1 66.7 % 1 1 0".split()
    assert "not here: hiv.csv; get it with `kflm2 datasets get HIV`" in lines["HIV"]
    assert "cannot be used: " in lines["BACE"]
    assert "row 1 (line 2) has 3 cells" in lines["BACE"]
    stages.datasets.from_command_line(["all"])
    assert capsys.readouterr().out.splitlines() == printed
    with pytest.raises(SystemExit) as stop:
        stages.datasets.from_command_line(["SAMPLE"])
    assert stop.value.code == 2
    assert "unknown dataset 'SAMPLE'" in capsys.readouterr().err
