"""What RDKit computes of the reference molecules, and which differences between two releases are seen."""

import base64
from collections.abc import Callable

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


def _stored(config: TrainConfig, change: Callable[[np.ndarray], None]) -> dict[str, str]:
    """Values with changed descriptors (molecules, descriptors)."""
    values = rdkit_values(config)
    array = np.frombuffer(base64.b64decode(values["descriptors"]), "<f4").reshape(len(SMILES), -1).copy()
    change(array)
    return {**values, "descriptors": base64.b64encode(array.tobytes()).decode()}


def test_the_same_rdkit_differs_in_nothing() -> None:
    for model in ("combined_base", "gcn_indepent", "crossAtt"):
        config = TrainConfig.of(model, dataset="SAMPL")
        assert differences(rdkit_values(config), config) == []
    assert set(rdkit_values(TrainConfig.of("gcn_indepent", dataset="SAMPL"))) == {
        "release",
        "smiles",
        "counts",
        "graphs",
    }


def test_another_number_of_one_descriptor_is_seen_and_rounding_is_not() -> None:
    column = rdkit_names().index("NumHAcceptors")

    def another(array: np.ndarray) -> None:
        array[20, column] += 1

    def rounded(array: np.ndarray) -> None:
        array *= 1 + 1e-6

    assert differences(_stored(CROSS, another), CROSS) == ["NumHAcceptors"]
    assert differences(_stored(CROSS, rounded), CROSS) == []


def test_a_changed_rdkit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    there = rdkit_values(CROSS)
    changed = [
        (name, rdMolDescriptors.CalcExactMolWt if name == "TPSA" else function)
        for name, function in Descriptors.descList
    ]
    monkeypatch.setattr(Descriptors, "descList", changed)
    module._values.cache_clear()
    try:
        assert differences(there, CROSS) == ["TPSA"]
    finally:
        module._values.cache_clear()


def test_values_of_other_molecules_or_another_model_are_refused() -> None:
    values = rdkit_values(CROSS)
    for damaged, reason in ((values["descriptors"][:400], "reshape"), ("?", "base64")):
        with pytest.raises(ValueError, match=reason):
            differences({**values, "descriptors": damaged}, CROSS)
    with pytest.raises(ValueError, match="not those that its model reads"):
        differences(rdkit_values(TrainConfig.of("gcn_indepent", dataset="SAMPL")), CROSS)


def test_nearly_every_descriptor_takes_several_values_in_the_reference_molecules() -> None:
    assert len(SMILES) == len(set(map(Chem.CanonSmiles, SMILES))) == 55
    values = descriptor_rows("rdkit", SMILES)
    constant = [name for name, column in zip(rdkit_names(), values.T, strict=True) if len(np.unique(column)) == 1]
    # surfaces that no common atom has
    assert constant == ["SMR_VSA8", "SlogP_VSA9", "EState_VSA11"]
