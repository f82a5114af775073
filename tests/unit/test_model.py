"""The six models: invariances, dependence on every view, the formulas of the paper, and that each can learn."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from rdkit import Chem
from sklearn.decomposition import PCA
from torch import nn

from kflm2 import encoded_view
from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import ModelConfig
from kflm2.encoded_view import EncodedView, pool_mean
from kflm2.featurize.features import Batch, Features, Sizes
from kflm2.featurize.graphs import graphs_of
from kflm2.featurize.ragged import Ragged
from kflm2.model import (
    CrossAttention,
    FusedModel,
    PrincipalComponents,
    SeparateAttention,
    Standardize,
    StatesEncoder,
    Weighted,
    build,
)

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "C", "C#N", "O=S(=O)(O)c1ccc2[nH]ccc2c1", "CCN"]
LENGTHS = [6, 1, 2, 9, 3]
WIDTH, TARGETS, DESCRIPTORS = 7, 3, 5
CPU = torch.device("cpu")
CASES = [(name, encoder, attend) for name in PIPELINES for encoder in ("gcn", "gine") for attend in ("items", "pooled")]


def _features(mols: list[Chem.Mol] | None = None, pooled: bool = False, descriptors: bool = True) -> Features:
    rng = np.random.default_rng(5)
    rows = [rng.normal(size=(length, WIDTH)).astype(np.float32) for length in LENGTHS]
    if pooled:
        rows = [row.mean(axis=0, keepdims=True) for row in rows]
    return Features(
        states=Ragged.pack(rows),
        graphs=graphs_of(mols or [Chem.MolFromSmiles(smiles) for smiles in SMILES]),
        descriptors=rng.normal(size=(len(rows), DESCRIPTORS)).astype(np.float32) if descriptors else None,
    )


def _views(name: str, features: Features) -> Features:
    """Only the views of the pipeline, as in a run."""
    pipeline = PIPELINES[name]
    return Features(
        states=features.states if "states" in pipeline.views else None,
        graphs=features.graphs if "graph" in pipeline.views else None,
        descriptors=features.descriptors,
    )


def _model(name: str, features: Features, **config: object) -> FusedModel:
    torch.manual_seed(2)
    model_config = ModelConfig(**{"graph_width": 10, "graph_depth": 2, "states_width": 12, **config})
    model = build(name, features.sizes(), TARGETS, model_config).eval()
    for module in model.modules():
        if isinstance(module, CrossAttention):
            # gates start at zero, which would hide the effect of the attention
            nn.init.ones_(module.gates)
    return model


def _predict(model: FusedModel, features: Features, rows: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(features.batch(np.array(rows), CPU))


@pytest.mark.parametrize("cost", [0, 10, 20])
@pytest.mark.parametrize("name", ["combinedSepAtt", "crossAtt"])
def test_attention_in_groups_of_similar_size_gives_the_same_prediction(
    name: str, cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = _features()
    model = _model(name, features)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(features.batch(np.array([0, 1, 2, 3, 4, 2]), CPU)).pow(2).sum().backward()
        return [weight.grad.clone() for weight in model.parameters()]

    expected, expected_gradients = _predict(model, features, [0, 1, 2, 3, 4, 2]), gradients()
    monkeypatch.setitem(encoded_view._PAIRS_OF_A_GROUP, "cpu", cost)
    group_sizes: list[int] = []
    original = EncodedView.dense

    def dense(view: EncodedView) -> tuple[torch.Tensor, torch.Tensor]:
        group_sizes.append(len(view.vector))
        return original(view)

    monkeypatch.setattr(EncodedView, "dense", dense)
    torch.testing.assert_close(_predict(model, features, [0, 1, 2, 3, 4, 2]), expected)
    torch.testing.assert_close(gradients(), expected_gradients, rtol=1e-4, atol=1e-5)
    assert len(group_sizes) >= 4
    assert max(group_sizes) < 6


@pytest.mark.parametrize(("name", "encoder", "attend"), CASES)
def test_predictions_do_not_depend_on_batch_padding_or_order(name: str, encoder: str, attend: str) -> None:
    features = _views(name, _features(pooled=attend == "pooled"))
    model = _model(name, features, graph_encoder=encoder, attend=attend)
    single = torch.cat([_predict(model, features, [row]) for row in range(5)])
    assert single.shape == (5, TARGETS)
    assert torch.pdist(single).min() > 1e-4
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(_predict(model, features, order), single[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "encoder", "attend"), [case for case in CASES if "graph" in PIPELINES[case[0]].views])
def test_predictions_do_not_depend_on_atom_order(name: str, encoder: str, attend: str) -> None:
    rng = np.random.default_rng(1)
    mols = [Chem.MolFromSmiles(smiles) for smiles in SMILES]
    permuted = [Chem.RenumberAtoms(mol, rng.permutation(mol.GetNumAtoms()).tolist()) for mol in mols]
    features, permuted_features = (
        _views(name, _features(group, pooled=attend == "pooled")) for group in (mols, permuted)
    )
    model = _model(name, features, graph_encoder=encoder, attend=attend)
    rows = list(range(5))
    expected = _predict(model, features, rows)
    torch.testing.assert_close(_predict(model, permuted_features, rows), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PIPELINES)
def test_covariates_are_read_by_every_pipeline_and_by_every_head(name: str) -> None:
    covariates = np.random.default_rng(3).normal(size=(5, 2)).astype(np.float32)
    features = dataclasses.replace(_views(name, _features()), covariates=covariates)
    model = _model(name, features, vote=("graph", "descriptors"))
    batch = features.batch(np.arange(5), CPU)
    assert batch.covariates is not None
    with torch.inference_mode():
        base = model.head_outputs(batch)
        changed = model.head_outputs(dataclasses.replace(batch, covariates=batch.covariates + 0.5))
    assert len(base) == 1 + len({"graph", "descriptors"} & set(model.encoders))
    assert (changed - base).abs().amax(dim=2).min() > 1e-5


@pytest.mark.parametrize(("name", "encoder"), [(case[0], case[1]) for case in CASES if case[2] == "items"])
def test_predictions_depend_on_every_view_of_the_pipeline_and_on_no_other(name: str, encoder: str) -> None:
    features = _views(name, _features())
    model = _model(name, features, graph_encoder=encoder)
    batch = features.batch(np.arange(5), CPU)
    with torch.inference_mode():
        base = model(batch)
        for view, field in (("states", "states"), ("graph", "x"), ("descriptors", "descriptors")):
            values = getattr(batch, field)
            if values is None:
                assert view not in model.encoders
                continue
            changed = model(dataclasses.replace(batch, **{field: values + 0.5}))
            # every molecule must change: otherwise a view may be assigned to the wrong molecule
            assert (changed - base).abs().amax(dim=1).min() > 1e-5, view


@pytest.mark.parametrize("encoder", ["gcn", "gine"])
def test_messages_pass_in_both_directions_of_a_bond(encoder: str) -> None:
    features = Features(graphs=_features().graphs)
    model = _model("gcn_indepent", features, graph_encoder=encoder)
    batch = features.batch(np.array([2]), CPU)
    with torch.inference_mode():
        one_direction = dataclasses.replace(batch, edge_index=batch.edge_index[:, ::2], edge_attr=batch.edge_attr[::2])
        assert (model(batch) - model(one_direction)).abs().max() > 1e-4


def test_gine_uses_bond_features_and_gcn_does_not() -> None:
    features = Features(graphs=_features().graphs)
    batch = features.batch(np.arange(5), CPU)
    changed = dataclasses.replace(batch, edge_attr=batch.edge_attr.roll(1, dims=1))
    for encoder, uses_bonds in (("gcn", False), ("gine", True)):
        model = _model("gcn_indepent", features, graph_encoder=encoder)
        with torch.inference_mode():
            assert ((model(batch) - model(changed)).abs().max() > 1e-4) == uses_bonds


def test_gcn_equals_the_formula_of_the_paper_with_dense_matrices() -> None:
    """z = Linear(mean(A' relu(A' X W1 + b1) W2 + b2)), A' = D^-1/2 (A + I) D^-1/2."""
    features = Features(graphs=_features().graphs)
    model = _model("gcn_indepent", features)
    encoder = model.encoders["graph"]
    for row, smiles in enumerate(SMILES):
        batch = features.batch(np.array([row]), CPU)
        adjacency = torch.tensor(Chem.GetAdjacencyMatrix(Chem.MolFromSmiles(smiles)), dtype=torch.float32)
        with_loops = adjacency + torch.eye(len(adjacency))
        scale = with_loops.sum(dim=1).rsqrt().diag()
        normalized = scale @ with_loops @ scale
        with torch.inference_mode():
            hidden = (normalized @ batch.x @ encoder.conv1.lin.weight.T + encoder.conv1.bias).relu()
            hidden = normalized @ hidden @ encoder.conv2.lin.weight.T + encoder.conv2.bias
            torch.testing.assert_close(
                encoder(batch, False).vector[0], encoder.out(hidden.mean(dim=0)), rtol=1e-4, atol=1e-5
            )


def test_embedding_dnn_equals_the_formula_of_the_paper() -> None:
    features = _views("combined_base", _features(pooled=True, descriptors=False))
    model = _model("combined_base", features)
    encoder = model.encoders["states"]
    assert isinstance(encoder, StatesEncoder)
    batch = features.batch(np.arange(5), CPU)
    with torch.inference_mode():
        inner = (encoder.scale(batch.states) @ encoder.inner[0].weight.T + encoder.inner[0].bias).relu()
        z = inner @ encoder.out.weight.T + encoder.out.bias
        torch.testing.assert_close(model(batch), model.head(z))


def test_pool_mean_is_the_mean_of_each_molecules_items() -> None:
    items = torch.arange(12.0).reshape(6, 2)
    pooled = pool_mean(items, torch.tensor([0, 0, 0, 1, 2, 2]), 3)
    torch.testing.assert_close(pooled, torch.stack([items[:3].mean(0), items[3], items[4:].mean(0)]))


def _encoded(hidden: int, counts: list[int], seed: int) -> EncodedView:
    torch.manual_seed(seed)
    items = torch.randn(sum(counts), hidden)
    mol = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return EncodedView(torch.randn(len(counts), hidden), items, mol)


@pytest.mark.parametrize("score", [-50.0, 50.0])
def test_weighted_concatenation_with_weights_0_and_1_is_a_single_view(score: float) -> None:
    fusion = Weighted(2, 4, 0.0).eval()
    nn.init.zeros_(fusion.score[2].weight)
    nn.init.constant_(fusion.score[2].bias, score)
    views = [_encoded(4, [1, 2, 3], seed) for seed in (0, 1)]
    expected = fusion.mix(views[0 if score > 0 else 1].vector)
    torch.testing.assert_close(fusion(views), expected)


def test_weights_of_two_views_are_the_papers_sigmoid() -> None:
    fusion = Weighted(2, 4, 0.0).eval()
    views = [_encoded(4, [1, 2, 3], seed) for seed in (0, 1)]
    w = fusion.score(torch.cat([view.vector for view in views], dim=-1)).sigmoid()
    torch.testing.assert_close(fusion.weights(views), torch.cat([w, 1 - w], dim=-1))


def test_pooled_attention_is_a_linear_map_as_in_the_original() -> None:
    fusion = SeparateAttention([True, True], 4, 0.0, 2, "pooled").eval()
    views = [_encoded(4, [2, 5, 1], seed) for seed in (0, 1)]
    linear = []
    for attention, view in zip(fusion.attention, views, strict=True):
        assert isinstance(attention, nn.MultiheadAttention)
        value = view.vector @ attention.in_proj_weight[8:].T + attention.in_proj_bias[8:]
        linear.append(attention.out_proj(value))
    torch.testing.assert_close(fusion(views), fusion.mix(torch.cat(linear, dim=-1)))


@pytest.mark.parametrize("name", ["combinedAtt", "combinedSepAtt", "crossAtt"])
@pytest.mark.parametrize("present", [("states",), ("graph",), ("descriptors",), ("graph", "descriptors")])
def test_a_model_without_some_views_uses_only_the_others(name: str, present: tuple[str, ...]) -> None:
    everything = _features()
    features = Features(
        states=everything.states if "states" in present else None,
        graphs=everything.graphs if "graph" in present else None,
        descriptors=everything.descriptors if "descriptors" in present else None,
    )
    torch.manual_seed(2)
    model = build(name, features.sizes(), TARGETS, ModelConfig(graph_width=10, graph_depth=2, states_width=12)).eval()
    assert tuple(model.encoders) == present
    assert _predict(model, features, [0, 1, 2]).shape == (3, TARGETS)
    model(features.batch(np.array([0, 1, 2]), CPU)).sum().backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not unused  # no layer of the fusion belongs to a missing view


def test_a_new_cross_attention_equals_concatenation() -> None:
    fusion = CrossAttention(2, True, 4, 0.0, 2).eval()
    views = [_encoded(4, [2, 5, 1], seed) for seed in (0, 1)]
    torch.testing.assert_close(fusion(views), fusion.mix(torch.cat([view.vector for view in views], dim=-1)))


def test_with_a_gate_of_zero_the_states_have_no_effect() -> None:
    features = _features()
    model = _model("crossAtt", features, gate_states=True)
    assert isinstance(model.fusion, CrossAttention) and model.fusion.first_gate is not None
    nn.init.zeros_(model.fusion.gates)
    changed = dataclasses.replace(features, states=_features(pooled=True).states)
    torch.testing.assert_close(_predict(model, changed, [0, 3]), _predict(model, features, [0, 3]))
    nn.init.ones_(model.fusion.first_gate)
    assert not torch.allclose(_predict(model, changed, [0, 3]), _predict(model, features, [0, 3]))


@pytest.mark.parametrize("name", ["combined", "crossAtt"])
def test_every_view_has_its_own_auxiliary_head(name: str) -> None:
    features = _features()
    model = _model(name, features, vote=("graph", "states", "descriptors"))
    batch = features.batch(np.array([0, 3, 4]), CPU)
    head_outputs = model.head_outputs(batch)
    assert list(model.auxiliary_heads) == ["states", "graph", "descriptors"] and head_outputs.shape == (4, 3, TARGETS)
    torch.testing.assert_close(model(batch), head_outputs.mean(dim=0))
    # an auxiliary head depends on its view and on no other
    other_states = dataclasses.replace(features, states=_features(pooled=True).states)
    changed = (model.head_outputs(other_states.batch(np.array([0, 3, 4]), CPU)) - head_outputs).abs().amax(
        dim=(1, 2)
    ) > 1e-6
    assert changed.tolist() == [True, True, False, False]
    single = dataclasses.replace(features, states=None, graphs=None)
    assert not build(name, single.sizes(), TARGETS, ModelConfig(vote=("descriptors",))).auxiliary_heads
    two_views = dataclasses.replace(features, graphs=None)
    assert list(_model("combined", two_views, vote=("graph", "descriptors")).auxiliary_heads) == ["descriptors"]


def test_view_dropout_drops_whole_views_never_all_and_only_in_training() -> None:
    torch.manual_seed(0)
    fusion = CrossAttention(3, False, 4, 0.0, 2, view_dropout=0.6)
    vectors = torch.ones(2000, 3, 4)
    dropped = fusion._drop_views(vectors)
    assert set(dropped.mean(dim=2).unique().tolist()) == {0.0, 1.0}
    assert (dropped.sum(dim=(1, 2)) > 0).all()
    # each view is dropped with probability 0.6; a molecule that would lose all three views keeps them all
    assert dropped.mean() == pytest.approx(0.4 + 0.6**3, abs=0.02)
    assert fusion.eval()._drop_views(vectors) is vectors


def test_cross_attention_equals_a_loop_over_molecules() -> None:
    fusion = CrossAttention(2, True, 4, 0.0, 2).eval()
    nn.init.normal_(fusion.gates)
    counts = ([2, 5, 1], [3, 1, 4])
    views = [_encoded(4, view_counts, seed) for seed, view_counts in enumerate(counts)]
    starts = [np.cumsum([0, *view_counts]) for view_counts in counts]
    vectors = []
    for row in range(3):
        tokens, atoms = (
            norm(view.items[start[row] : start[row + 1]]).unsqueeze(0)
            for norm, view, start in zip(fusion.norms, views, starts, strict=True)
        )
        attended = (fusion.attention[0](tokens, atoms, atoms)[0], fusion.attention[1](atoms, tokens, tokens)[0])
        vectors.append(
            torch.cat(
                [
                    view.vector[row] + gate * out[0].mean(dim=0)
                    for view, gate, out in zip(views, fusion.gates, attended, strict=True)
                ]
            )
        )
    torch.testing.assert_close(fusion(views), fusion.mix(torch.stack(vectors)), rtol=1e-4, atol=1e-5)


def test_standardize_uses_training_rows_only_and_centres_a_constant_column() -> None:
    train = torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    standardize = Standardize(2)
    standardize.fit(train)
    out = standardize(train)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(2))
    torch.testing.assert_close(out[:, 0].std(correction=0), torch.tensor(1.0))
    assert standardize(torch.tensor([[3.0, 7.0]])).tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize("name", ["crossAtt", "combined_base"])
def test_a_model_reads_states_or_their_components_with_the_same_result(name: str) -> None:
    features = _views(name, _features())
    model = _model(name, features)
    encoder = model.use_components(3)
    assert encoder is not None and features.states is not None
    model.fit_scales(features.batch(np.array([0, 1, 2, 3]), CPU))
    of_states = _predict(model, features, [0, 1, 2, 3, 4])
    components = encoder.reduced(torch.from_numpy(features.states.values)).numpy()
    assert components.shape[1] == 3
    encoder.reads_components = True
    reduced = dataclasses.replace(features, states=Ragged(components, features.states.ptr))
    torch.testing.assert_close(_predict(model, reduced, [0, 1, 2, 3, 4]), of_states)
    assert not torch.allclose(of_states, of_states[:1].expand_as(of_states))


def test_principal_components_are_those_of_the_standardized_training_rows() -> None:
    rng = np.random.default_rng(0)
    train = torch.from_numpy(rng.normal(size=(200, 4)) @ rng.normal(size=(4, 6)) + 2).float()
    scale = Standardize(6)
    scale.fit(train)
    components = PrincipalComponents(6, 3)
    components.fit(scale(train))
    expected = PCA(3).fit(scale(train).numpy())
    projected = components(scale(train))
    np.testing.assert_allclose(components.variance, expected.explained_variance_ratio_.sum(), rtol=1e-4)
    np.testing.assert_allclose(projected.var(dim=0).mean(), 1, rtol=0.01)
    ours, theirs = projected - projected.mean(dim=0), expected.transform(scale(train).numpy())
    for k in range(3):
        assert abs(np.corrcoef(ours[:, k], theirs[:, k])[0, 1]) > 0.999
    ratio = ours.norm(dim=0) / torch.from_numpy(theirs).norm(dim=0)
    torch.testing.assert_close(ratio, ratio[:1].expand(3), rtol=1e-3, atol=0)  # one scale for all, no whitening


def test_few_columns_are_read_as_they_are() -> None:
    features = _features()
    model = _model("crossAtt", features)
    assert model.use_components(WIDTH) is None
    assert model.use_components(0) is None
    assert _model("gcn_indepent", _views("gcn_indepent", features)).use_components(3) is None


@pytest.mark.parametrize("name", PIPELINES)
def test_each_model_overfits_32_molecules(name: str) -> None:
    """The model can fit the training data, every weight gets a gradient, and the K targets differ."""
    rng = np.random.default_rng(0)
    smiles = ["C" * (1 + i % 8) + "NOS"[i % 3] + "C" * (i // 8) for i in range(32)]
    states = Ragged.pack([rng.normal(size=(1 + i % 5, WIDTH)).astype(np.float32) for i in range(32)])
    everything = Features(
        states=states,
        graphs=graphs_of([Chem.MolFromSmiles(text) for text in smiles]),
        descriptors=rng.normal(size=(32, DESCRIPTORS)).astype(np.float32),
    )
    features = _views(name, everything)
    model = _model(name, features, graph_encoder="gine", dropout=0.0, hidden=32, states_width=64, graph_width=32)
    target = torch.from_numpy(rng.normal(size=(32, TARGETS))).float()
    batch = features.batch(np.arange(32), CPU)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    used = dict.fromkeys((key for key, _ in model.named_parameters()), False)
    for _ in range(400):
        loss = ((model(batch) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        for key, weight in model.named_parameters():
            used[key] |= weight.grad is not None and bool(weight.grad.abs().max() > 0)
        optimizer.step()
    assert loss.item() < 0.02
    # gine has an output layer for the molecule and one for its atoms; a fusion may use only one of them
    unused = {"combinedSepAtt": "encoders.graph.out", "crossAtt": "none"}.get(name, "encoders.graph.item_out")
    assert {key for key, is_used in used.items() if not is_used and not key.startswith(unused)} == set()


def test_sizes_of_missing_views_are_zero() -> None:
    assert Features(graphs=_features().graphs).sizes() == Sizes(0, 76, 11, 0)
    assert isinstance(Features(graphs=_features().graphs).batch(np.array([1]), CPU), Batch)


def test_a_batch_has_the_molecule_index_of_every_row() -> None:
    batch = _features().batch(np.array([3, 1]), CPU)
    assert batch.size == 2
    for mol in (batch.states_mol, batch.x_mol):
        assert mol is not None
        assert mol[0] == 0
        assert mol[-1] == 1
        assert all(a <= b for a, b in pairwise(mol.tolist()))
