"""What RDKit computes for the reference molecules, and which differences between two releases are seen."""

import base64
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors, rdMolDescriptors

from kflm2 import resources
from kflm2.config.train import TrainConfig
from kflm2.featurize.descriptors import descriptor_rows, rdkit_names
from kflm2.predictor import rdkit_values as module
from kflm2.predictor.rdkit_values import differences, rdkit_values

SMILES = resources.packaged(resources.REFERENCE).read_text().split()
CROSS = TrainConfig.of("crossAtt", dataset="SAMPL")
GRAPH = TrainConfig.of("gcn_indepent", dataset="SAMPL")
COLUMN = rdkit_names().index("NumHAcceptors")


@pytest.fixture
def forgotten() -> Iterator[Callable[[], None]]:
    """What was computed is computed again, also after the test."""

    def forget() -> None:
        for cached in (module._values, module._standard, module._lines):
            cached.cache_clear()

    yield forget
    forget()


def _stored(change: Callable[[np.ndarray], None]) -> dict[str, str]:
    """crossAtt's values with changed descriptors (molecules, descriptors)."""
    values = rdkit_values(CROSS, packed=False)
    array = np.frombuffer(base64.b64decode(values["descriptors"]), "<f4").reshape(len(SMILES), -1).copy()
    change(array)
    return {**values, "descriptors": base64.b64encode(array.tobytes()).decode()}


def test_only_what_a_model_reads_is_kept_and_computed_twice_it_is_the_same(forgotten: Callable[[], None]) -> None:
    always = {"release", "molecules", "structures"}
    for model, packed, kinds in (
        ("combined_base", False, {"smiles"}),
        ("gcn_indepent", False, {"graphs"}),
        ("gcn_indepent", True, {"graphs", "counts"}),
        ("crossAtt", False, {"smiles", "graphs", "counts", "descriptors"}),
    ):
        config = TrainConfig.of(model, dataset="SAMPL")
        values = rdkit_values(config, packed)
        assert set(values) == always | kinds
        forgotten()
        assert differences(values, config, packed) == []


@pytest.mark.parametrize(
    ("factor", "summand", "seen"),
    [(1 + 1e-6, 0, False), (1 + 1e-4, 0, True), (1, 1, True), (1, np.nan, True)],
)
def test_another_number_is_seen_and_rounding_is_not(factor: float, summand: float, seen: bool) -> None:
    row = int(np.flatnonzero(descriptor_rows("rdkit", SMILES)[:, COLUMN])[0])

    def change(array: np.ndarray) -> None:
        array[row, COLUMN] = array[row, COLUMN] * factor + summand

    assert differences(_stored(change), CROSS, packed=False) == (["NumHAcceptors"] if seen else [])


def test_a_changed_rdkit_is_seen(monkeypatch: pytest.MonkeyPatch, forgotten: Callable[[], None]) -> None:
    there = rdkit_values(CROSS, packed=False)
    weight = rdMolDescriptors.CalcExactMolWt
    changed = [(name, weight if name == "TPSA" else function) for name, function in Descriptors.descList]
    monkeypatch.setattr(Descriptors, "descList", changed)
    forgotten()
    assert differences(there, CROSS, packed=False) == ["TPSA"]


def test_an_rdkit_that_cannot_standardize_a_molecule_loses_no_model(
    monkeypatch: pytest.MonkeyPatch, forgotten: Callable[[], None]
) -> None:
    there = rdkit_values(GRAPH, packed=False)
    original = module.standard_smiles

    def fails(text: str, how: module.Standardization) -> str:
        if text == SMILES[7]:
            raise module.MoleculeError("RDKit cannot standardize it")
        return original(text, how)

    monkeypatch.setattr(module, "standard_smiles", fails)
    forgotten()
    assert differences(there, GRAPH, packed=False) == ["standard forms"]


def test_damaged_values_are_refused_and_others_are_not_compared() -> None:
    values = rdkit_values(CROSS, packed=False)
    width = 4 * len(rdkit_names())
    fewer = base64.b64encode(base64.b64decode(values["descriptors"])[width:]).decode()
    for damaged, reason in ((values["descriptors"][:400], "reshape"), ("?", "base64"), (fewer, "not of 57")):
        with pytest.raises(ValueError, match=reason):
            differences({**values, "descriptors": damaged}, CROSS, packed=False)
    assert differences({**values, "molecules": "0" * 64}, CROSS, packed=False) is None
    assert differences(rdkit_values(GRAPH, packed=False), CROSS, packed=False) is None


def test_nearly_every_descriptor_takes_several_values_in_the_reference_molecules() -> None:
    assert len(SMILES) == len(set(map(Chem.CanonSmiles, SMILES))) == 57
    values = descriptor_rows("rdkit", SMILES)
    constant = [name for name, column in zip(rdkit_names(), values.T, strict=True) if len(np.unique(column)) == 1]
    # surfaces that no common atom has
    assert constant == ["SMR_VSA8", "SlogP_VSA9"]
