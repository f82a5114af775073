"""The applicability domain: by structure and by fused states."""

import numpy as np
from rdkit import DataStructs

from kflm2.data.molecules import elements_of, parse_smiles
from kflm2.data.similarity import fingerprints
from kflm2.metrics.applicability_domain import ApplicabilityDomain


def test_a_domain_contains_training_molecules_and_95_percent_of_validation() -> None:
    rng = np.random.default_rng(0)
    train = [f"{'C' * n}{end}" for n in range(1, 15) for end in ("O", "N", "C(=O)O", "Cl")]
    valid = [f"{'C' * n}Br" for n in range(1, 21)]
    vectors = rng.normal(size=(len(train) + len(valid), 6))
    domain = ApplicabilityDomain.fit((train, vectors[: len(train)]), (valid, vectors[len(train) :]))
    train_scores = domain.locate(fingerprints(train), vectors[: len(train)])
    assert train_scores.nearest.tolist() == [fingerprints(train).index(mol) for mol in fingerprints(train)]
    assert (train_scores.similarity == 1).all()
    valid_scores = domain.locate(fingerprints(valid), vectors[len(train) :])
    assert (valid_scores.similarity >= domain.least_similarity).mean() >= 0.95
    assert (valid_scores.distance <= domain.most_distance).mean() >= 0.95
    dissimilar = domain.locate(fingerprints(["c1ccc2c(c1)[nH]c1ccccc12"]), np.zeros((1, 6)))
    distant = domain.locate(fingerprints(["CCO"]), np.full((1, 6), 50.0))
    assert not dissimilar.inside[0] and not distant.inside[0]
    assert domain.locate(fingerprints(["CCO"]), np.zeros((1, 6))).inside[0]


def test_a_molecule_with_a_new_element_or_an_attachment_point_is_outside() -> None:
    domain = ApplicabilityDomain(["CCO", "[2H]CCCl", "CC[N+]([O-])=O"], np.ones((3, 2)), 0.0, np.inf)
    assert domain.elements == frozenset({6, 7, 8, 17})
    smiles = ["CCO", "[2H]C([2H])Cl", "CCB(O)O", "*CCO", "[*:1]CCO", "CC[N+](C)(C)C", "CCBr"]
    elements = [elements_of(parse_smiles(text)) for text in smiles]
    for one in (domain, domain.without_smiles()):
        scores = one.locate(fingerprints(smiles), np.ones((7, 2)), elements)
        assert scores.inside.tolist() == [True, True, False, False, False, True, False]
    unknown = ApplicabilityDomain((), np.ones((3, 2)), 0.0, np.inf, fingerprints(["C", "CC", "CO"]))
    assert unknown.locate(fingerprints(smiles), np.ones((7, 2)), elements).inside.all()


def test_a_constant_column_gives_a_finite_distance() -> None:
    vectors = np.ones((8, 3))
    vectors[:, 0] = range(8)
    domain = ApplicabilityDomain([f"{'C' * n}O" for n in range(1, 9)], vectors, 0.0, np.inf)
    assert np.isfinite(domain.locate(fingerprints(["CO"]), np.ones((1, 3))).distance).all()


def test_bounds_of_inner_folds_are_of_molecules_that_their_model_did_not_learn_from() -> None:
    rng = np.random.default_rng(1)
    smiles = [f"{'C' * n}{end}" for n in range(1, 16) for end in ("O", "N", "C(=O)O", "Cl")]
    fold = rng.permutation(np.arange(60) % 3)
    fused = rng.normal(size=(3, 60, 4)) * np.array([1.0, 10.0, 100.0])[:, None, None]
    domain = ApplicabilityDomain.fit_folds(smiles, fused, fold)
    similarities, distances = [], []
    prints = fingerprints(smiles)
    for i in range(60):
        others = np.flatnonzero(fold != fold[i])
        similarities.append(max(DataStructs.TanimotoSimilarity(prints[i], prints[j]) for j in others))
        vectors = fused[fold[i]]
        scaled = (vectors - vectors[others].mean(axis=0)) / vectors[others].std(axis=0)
        distances.append(np.sort(np.linalg.norm(scaled[others] - scaled[i], axis=1) / 2)[:5].mean())
    assert np.isclose(domain.least_similarity, np.quantile(similarities, 0.05))
    assert np.isclose(domain.most_distance, np.quantile(distances, 0.95))
    assert domain.smiles == smiles and np.array_equal(domain.vectors, fused[0])
