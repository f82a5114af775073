"""What the LLM learns beside SMILES: ranks of descriptors and of tables, with what is missing left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from kflm2.data.knowledge import KnowledgeTable, find_table
from kflm2.errors import DataError
from kflm2.trainers.lora.knowledge import KnowledgeTargets

SMILES = ["C" * n + end for n in range(1, 12) for end in ("O", "N", "Cl", "c1ccccc1")]


def test_descriptors_are_ranked_and_standardized() -> None:
    targets = KnowledgeTargets(("descriptors",), (1.0,), SMILES)
    (source,) = targets.sources
    values = targets(SMILES)
    assert values.shape == (len(SMILES), len(source.names)) == (len(SMILES), targets.size)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.3)
    weight = [rdMolDescriptors.CalcExactMolWt(Chem.MolFromSmiles(text)) for text in SMILES]
    ranks = values[:, source.names.index("ExactMolWt")]
    assert np.argsort(ranks, kind="stable")[-1] == np.argmax(weight)
    assert np.corrcoef(np.argsort(np.argsort(ranks)), np.argsort(np.argsort(weight)))[0, 1] > 0.99


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_table_is_looked_up_by_molecule_with_what_is_missing_left_out(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"own{suffix}"
    frame = pd.DataFrame(
        {
            "name": ["a"] * 43,
            "canonical_smiles": [*SMILES[:40], "OCCC", "C1CC", SMILES[0]],
            "density": [*map(float, range(40)), 5.0, 1.0, 99.0],
            "constant": 1.0,
            "sparse": [np.nan if n % 2 else n for n in range(43)],
        }
    )
    # with the index, which teaches nothing
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path)
    table = KnowledgeTable.read(path)
    assert table.columns == ("density", "sparse") and table.unreadable == 1
    # CCCO is there as such, and once more, later and written otherwise
    assert len(table.smiles) == 40 and table.rows_of(["OCCC"])[0, 0] == SMILES.index("CCCO")
    targets = KnowledgeTargets(("descriptors", str(path)), (1.0, 0.3), SMILES)
    descriptors, own = targets.sources
    assert (own.name, own.names, own.weight) == ("own", ("density", "sparse"), 0.3)
    assert own.columns == slice(len(descriptors.names), targets.size)
    values = targets(SMILES)[:, own.columns]
    assert np.isnan(values[40:]).all() and np.isnan(values[1, 1]) and not np.isnan(values[:40, 0]).any()
    assert (np.diff(values[:40, 0]) > 0).all()
    np.testing.assert_allclose([values[:40, 0].mean(), values[:40, 0].std()], [0, 1], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("molecule,y\nCCO,1\n", "no column smiles"),
        ("smiles,y\nCCO,1\nCCN,1\n", "no column of numbers that vary"),
        ("smiles,y\n", "0 molecules"),
        ("smiles,id,y\nCCO,a1,1\nCCN,a2,>9\nCC,a3,2\n", "row 2: column 'y' is '>9', and a number in most other rows"),
    ],
)
def test_a_table_that_teaches_nothing_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        KnowledgeTable.read(tmp_path / "a.csv")
    with pytest.raises(DataError, match="no file"):
        find_table(str(tmp_path / "other.csv"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_row_without_smiles_is_counted_as_unreadable(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"own{suffix}"
    frame = pd.DataFrame({"smiles": ["CCO", None, "CCN", ""], "x": [1.0, 2.0, 3.0, 4.0]})
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    table = KnowledgeTable.read(path)
    assert (table.smiles, table.unreadable) == (("CCO", "CCN"), 2)


def test_a_column_of_few_values_is_learnt_and_shares_are_counted(tmp_path: Path) -> None:
    values = [np.nan] * 5000
    values[17], values[4711] = 1.0, 2.0
    pd.DataFrame(
        {"smiles": [f"{'C' * (n % 70 + 1)}{'N' * (n // 70 + 1)}" for n in range(5000)], "rare": values}
    ).to_csv(tmp_path / "a.csv", index=False)
    targets = KnowledgeTargets((str(tmp_path / "a.csv"),), (1.0,), [])
    assert targets.sources[0].names == ("rare",) and set(targets.table_arrays()) == {
        "table.columns", "table.quantiles", "table.mean", "table.std"
    }  # fmt: skip
    assert targets.shares(["c1ccccc1", "O"]) == {"a": 0.0}


def test_numbers_of_a_small_unit_are_learnt_as_others_are(tmp_path: Path) -> None:
    """Such as a dissociation constant in mol/L."""
    smiles = [f"{'C' * (n % 20 + 1)}{'O' * (n // 20 + 1)}" for n in range(100)]
    values = np.random.default_rng(0).lognormal(size=100)
    found = []
    for unit in (1.0, 1e-9):
        pd.DataFrame({"smiles": smiles, "Kd": unit * values}).to_csv(tmp_path / "a.csv", index=False)
        found.append(KnowledgeTargets((str(tmp_path / "a.csv"),), (1.0,), [])(smiles))
    np.testing.assert_allclose(found[1], found[0], atol=1e-3)
    assert np.unique(found[0]).size == 100


def test_two_tables_with_one_name_are_refused(tmp_path: Path) -> None:
    for folder, column in (("one", "x"), ("two", "x"), ("three", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ("b.csv" if folder == "two" else "a.csv")).write_text(f"smiles,{column}\nC,1\nCC,2\n")
    with pytest.raises(DataError, match="same file name a"):
        KnowledgeTargets((str(tmp_path / "one" / "a.csv"), str(tmp_path / "three" / "a.csv")), (1.0,), [])
    with pytest.raises(DataError, match="same column x"):
        KnowledgeTargets((str(tmp_path / "one" / "a.csv"), str(tmp_path / "two" / "b.csv")), (1.0,), [])


def test_a_damaged_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read"):
        KnowledgeTable.read(tmp_path / "a.parquet")
