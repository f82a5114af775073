"""The registry of datasets, and the published files where they are available."""

import numpy as np
import pytest

from kflm2.data import datasets
from kflm2.data.datasets import DATASETS
from kflm2.data.molecules import parse_smiles
from kflm2.data.reading import read_table
from kflm2.errors import DataError, SettingError

# rows, rows RDKit cannot read, targets, molecules of one or two atoms, molecules of several fragments, longest SMILES
PUBLISHED = {
    "SAMPL": (642, 0, 1, 14, 0, 82),
    "Delaney": (1128, 0, 1, 7, 0, 97),
    "Lipophilicity": (4200, 0, 1, 0, 1, 267),
    "Llinas": (9860 + 100 + 32, 2, 1, 106, 1096, 783),
    "Warrior": (7911, 0, 1, 5, 4, 136),
    "BACE": (1513, 0, 1, 0, 0, 198),
    "BBBP": (2050, 11, 1, 1, 105, 400),
    "ClinTox": (1484, 4, 1, 6, 14, 339),
    "Tox21": (7831, 8, 12, 28, 244, 342),
    "SIDER": (1427, 0, 27, 29, 182, 1340),
    "HIV": (41127, 0, 1, 2, 3088, 580),
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_published_file_is_read_completely(name: str, dataset_files: None) -> None:
    rows, unreadable, targets, tiny, salts, longest = PUBLISHED[name]
    dataset = datasets.find(name)
    molecules = read_table(dataset)
    assert molecules.read == rows
    assert len(molecules.rejected) == unreadable
    assert all(rejection.reason.startswith("RDKit cannot read it") for rejection in molecules.rejected)
    assert molecules.y_true.shape == (rows - unreadable, targets)
    # two atoms in brackets, with charges and isotopes, take no more characters
    short = [text for text in molecules.smiles if len(text) <= 40]
    assert sum(parse_smiles(text).GetNumAtoms() <= 2 for text in short) == tiny
    assert sum("." in text for text in molecules.smiles) == salts
    assert max(map(len, molecules.smiles)) == longest
    assert molecules.missing == (16026 if name == "Tox21" else 0)
    assert molecules.padded == (212 if name == "Delaney" else 0)
    if dataset.task == "classification":
        assert set(np.unique(molecules.y_true[~np.isnan(molecules.y_true)])) == {0.0, 1.0}
    if name == "Llinas":
        assert molecules.parts is not None
        assert [molecules.parts.count(part) for part in ("train", "test_set1", "test_set2")] == [9858, 100, 32]


def test_each_of_the_eleven_datasets_is_described() -> None:
    assert len(DATASETS) == 11
    for dataset in DATASETS.values():
        assert dataset.quantity
        assert dataset.unit or dataset.task == "classification" or dataset.name in ("Lipophilicity", "Warrior")
        assert all(len(file.sha256) == 64 for file in dataset.files)
    assert [name for name, dataset in DATASETS.items() if dataset.brings_tests] == ["Llinas"]


def test_other_targets_are_chosen_by_name() -> None:
    assert DATASETS["ClinTox"].with_targets(("CT_TOX", "FDA_APPROVED")).targets == ("CT_TOX", "FDA_APPROVED")
    assert DATASETS["Tox21"].with_targets(("SR-p53",)).targets == ("SR-p53",)
    with pytest.raises(SettingError, match="unknown target of Tox21 'p53'; choose one of: NR-AR,"):
        DATASETS["Tox21"].with_targets(("p53",))


def test_the_error_of_a_missing_file_tells_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkout, folder = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("folder")
    monkeypatch.setattr(datasets, "project_folder", lambda: checkout)
    monkeypatch.setenv("KFLM2_DATASETS", str(folder))
    with pytest.raises(DataError, match=r"no file hiv\.csv in .* or .*; `kflm2 datasets get HIV` downloads it"):
        datasets.find("HIV")
    (folder / "hiv.csv").write_text("SMILES,label\nCC,1\n")
    assert datasets.find("HIV").path == folder / "hiv.csv"
    (checkout / "dataset").mkdir()
    (checkout / "dataset" / "SAMPL.csv").write_text("")
    assert datasets.find("SAMPL").path == checkout / "dataset" / "SAMPL.csv"
    (folder / "SAMPL.csv").write_text("")
    assert datasets.find("SAMPL").path == folder / "SAMPL.csv"
    with pytest.raises(SettingError, match="unknown dataset 'hiv'"):
        datasets.find("hiv")
