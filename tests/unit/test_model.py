"""The six models: what must not change a prediction, what must, and that each can learn."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from rdkit import Chem
from torch import nn

from kflm2 import model as models
from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import ModelConfig
from kflm2.featurize.features import Batch, Features, Sizes
from kflm2.featurize.graphs import graphs_of
from kflm2.featurize.ragged import Ragged
from kflm2.model import (
    CrossAttention,
    Encoded,
    FusedModel,
    SeparateAttention,
    Standardize,
    StatesEncoder,
    Weighted,
    build,
    pool_mean,
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
    """Only what the pipeline takes, as in a run."""
    recipe = PIPELINES[name]
    return Features(
        states=features.states if "states" in recipe.views else None,
        graphs=features.graphs if "graph" in recipe.views else None,
        descriptors=features.descriptors,
    )


def _model(name: str, features: Features, **config: object) -> FusedModel:
    torch.manual_seed(2)
    chosen = ModelConfig(**{"graph_width": 10, "graph_depth": 2, "states_width": 12, **config})
    model = build(name, features.sizes(), TARGETS, chosen).eval()
    for module in model.modules():
        if isinstance(module, CrossAttention):
            # a fresh gate is shut, and behind it nothing could be seen
            nn.init.ones_(module.gates)
    return model


def _predict(model: FusedModel, features: Features, rows: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(features.batch(np.array(rows), CPU))


@pytest.mark.parametrize("short", [1, 2, 3])
@pytest.mark.parametrize("name", ["combinedSepAtt", "crossAtt"])
def test_attending_in_groups_of_like_size_changes_nothing(
    name: str, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = _features()
    model = _model(name, features)
    together = _predict(model, features, [0, 1, 2, 3, 4, 2])
    monkeypatch.setattr(models, "_SHORT", short)
    seen: list[int] = []
    plain = Encoded.dense

    def dense(view: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(view.vector))
        return plain(view)

    monkeypatch.setattr(Encoded, "dense", dense)
    torch.testing.assert_close(_predict(model, features, [0, 1, 2, 3, 4, 2]), together)
    assert len(seen) >= 4
    assert max(seen) < 6


@pytest.mark.parametrize(("name", "encoder", "attend"), CASES)
def test_company_padding_and_order_change_no_prediction(name: str, encoder: str, attend: str) -> None:
    features = _views(name, _features(pooled=attend == "pooled"))
    model = _model(name, features, graph_encoder=encoder, attend=attend)
    alone = torch.cat([_predict(model, features, [row]) for row in range(5)])
    assert alone.shape == (5, TARGETS)
    assert torch.pdist(alone).min() > 1e-4
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(_predict(model, features, order), alone[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "encoder", "attend"), [case for case in CASES if "graph" in PIPELINES[case[0]].views])
def test_atom_order_changes_no_prediction(name: str, encoder: str, attend: str) -> None:
    rng = np.random.default_rng(1)
    mols = [Chem.MolFromSmiles(smiles) for smiles in SMILES]
    moved = [Chem.RenumberAtoms(mol, rng.permutation(mol.GetNumAtoms()).tolist()) for mol in mols]
    plain, other = (_views(name, _features(own, pooled=attend == "pooled")) for own in (mols, moved))
    model = _model(name, plain, graph_encoder=encoder, attend=attend)
    rows = list(range(5))
    torch.testing.assert_close(_predict(model, other, rows), _predict(model, plain, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "encoder"), [(case[0], case[1]) for case in CASES if case[2] == "items"])
def test_every_view_matters_and_no_other(name: str, encoder: str) -> None:
    features = _views(name, _features())
    model = _model(name, features, graph_encoder=encoder)
    batch = features.batch(np.arange(5), CPU)
    with torch.inference_mode():
        base = model(batch)
        for view, part in (("states", "states"), ("graph", "x"), ("descriptors", "descriptors")):
            values = getattr(batch, part)
            if values is None:
                assert view not in model.encoders
                continue
            changed = model(dataclasses.replace(batch, **{part: values + 0.5}))
            # each molecule, not only some: a view tied to another molecule would show here
            assert (changed - base).abs().amax(dim=1).min() > 1e-5, view


@pytest.mark.parametrize("encoder", ["gcn", "gine"])
def test_a_bond_carries_both_ways(encoder: str) -> None:
    features = Features(graphs=_features().graphs)
    model = _model("gcn_indepent", features, graph_encoder=encoder)
    batch = features.batch(np.array([2]), CPU)
    with torch.inference_mode():
        one_way = dataclasses.replace(batch, edge_index=batch.edge_index[:, ::2], edge_attr=batch.edge_attr[::2])
        assert (model(batch) - model(one_way)).abs().max() > 1e-4


def test_gine_reads_bond_features_and_gcn_does_not() -> None:
    features = Features(graphs=_features().graphs)
    batch = features.batch(np.arange(5), CPU)
    other = dataclasses.replace(batch, edge_attr=batch.edge_attr.roll(1, dims=1))
    for encoder, reads in (("gcn", False), ("gine", True)):
        model = _model("gcn_indepent", features, graph_encoder=encoder)
        with torch.inference_mode():
            assert ((model(batch) - model(other)).abs().max() > 1e-4) == reads


def test_gcn_is_the_formula_of_the_paper_on_dense_matrices() -> None:
    """z = Linear(mean(A' relu(A' X W1 + b1) W2 + b2)), A' = D^-1/2 (A + I) D^-1/2."""
    features = Features(graphs=_features().graphs)
    model = _model("gcn_indepent", features)
    encoder = model.encoders["graph"]
    for row, smiles in enumerate(SMILES):
        batch = features.batch(np.array([row]), CPU)
        adjacency = torch.tensor(Chem.GetAdjacencyMatrix(Chem.MolFromSmiles(smiles)), dtype=torch.float32)
        looped = adjacency + torch.eye(len(adjacency))
        scale = looped.sum(dim=1).rsqrt().diag()
        mixed = scale @ looped @ scale
        with torch.inference_mode():
            hidden = (mixed @ batch.x @ encoder.conv1.lin.weight.T + encoder.conv1.bias).relu()
            hidden = mixed @ hidden @ encoder.conv2.lin.weight.T + encoder.conv2.bias
            torch.testing.assert_close(
                encoder(batch, False).vector[0], encoder.out(hidden.mean(dim=0)), rtol=1e-4, atol=1e-5
            )


def test_embedding_dnn_is_the_formula_of_the_paper() -> None:
    features = _views("combined_base", _features(pooled=True, descriptors=False))
    model = _model("combined_base", features)
    encoder = model.encoders["states"]
    assert isinstance(encoder, StatesEncoder)
    batch = features.batch(np.arange(5), CPU)
    with torch.inference_mode():
        inner = (encoder.scale(batch.states) @ encoder.inner[0].weight.T + encoder.inner[0].bias).relu()
        z = inner @ encoder.out.weight.T + encoder.out.bias
        torch.testing.assert_close(model(batch), model.head(z))


def test_pool_mean_is_the_plain_mean_and_knows_no_padding() -> None:
    items = torch.arange(12.0).reshape(6, 2)
    pooled = pool_mean(items, torch.tensor([0, 0, 0, 1, 2, 2]), 3)
    torch.testing.assert_close(pooled, torch.stack([items[:3].mean(0), items[3], items[4:].mean(0)]))


def _encoded(hidden: int, counts: list[int], seed: int) -> Encoded:
    torch.manual_seed(seed)
    items = torch.randn(sum(counts), hidden)
    mol = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Encoded(torch.randn(len(counts), hidden), items, mol)


@pytest.mark.parametrize("score", [-50.0, 50.0])
def test_weighted_concatenation_at_0_or_1_is_one_branch(score: float) -> None:
    fusion = Weighted(2, 4, 0.0).eval()
    nn.init.zeros_(fusion.score[2].weight)
    nn.init.constant_(fusion.score[2].bias, score)
    views = [_encoded(4, [1, 2, 3], seed) for seed in (0, 1)]
    alone = fusion.mix(views[0 if score > 0 else 1].vector)
    torch.testing.assert_close(fusion(views), alone)


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
@pytest.mark.parametrize("left", [("states",), ("graph",), ("descriptors",), ("graph", "descriptors")])
def test_with_views_left_out_only_the_others_are_read(name: str, left: tuple[str, ...]) -> None:
    whole = _features()
    features = Features(
        states=whole.states if "states" in left else None,
        graphs=whole.graphs if "graph" in left else None,
        descriptors=whole.descriptors if "descriptors" in left else None,
    )
    torch.manual_seed(2)
    model = build(name, features.sizes(), TARGETS, ModelConfig(graph_width=10, graph_depth=2, states_width=12)).eval()
    assert tuple(model.encoders) == left
    assert _predict(model, features, [0, 1, 2]).shape == (3, TARGETS)
    model(features.batch(np.array([0, 1, 2]), CPU)).sum().backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not unused  # no part of a fusion waits for a view that never comes


def test_cross_attention_starts_from_the_plain_views() -> None:
    fusion = CrossAttention(2, True, 4, 0.0, 2).eval()
    views = [_encoded(4, [2, 5, 1], seed) for seed in (0, 1)]
    torch.testing.assert_close(fusion(views), fusion.mix(torch.cat([view.vector for view in views], dim=-1)))


def test_a_shut_gate_keeps_the_llm_out_and_an_open_one_lets_it_in() -> None:
    features = _features()
    model = _model("crossAtt", features, gate_states=True)
    assert isinstance(model.fusion, CrossAttention) and model.fusion.first_gate is not None
    nn.init.zeros_(model.fusion.gates)
    other = dataclasses.replace(features, states=_features(pooled=True).states)
    torch.testing.assert_close(_predict(model, other, [0, 3]), _predict(model, features, [0, 3]))
    nn.init.ones_(model.fusion.first_gate)
    assert not torch.allclose(_predict(model, other, [0, 3]), _predict(model, features, [0, 3]))


@pytest.mark.parametrize("name", ["combined", "crossAtt"])
def test_every_view_has_a_voice_of_its_own(name: str) -> None:
    features = _features()
    model = _model(name, features, vote=("graph", "states", "descriptors"))
    batch = features.batch(np.array([0, 3, 4]), CPU)
    head_outputs = model.head_outputs(batch)
    assert list(model.auxiliary_heads) == ["states", "graph", "descriptors"] and head_outputs.shape == (4, 3, TARGETS)
    torch.testing.assert_close(model(batch), head_outputs.mean(dim=0))
    # a voice reads its view and no other
    other = dataclasses.replace(features, states=_features(pooled=True).states)
    changed = (model.head_outputs(other.batch(np.array([0, 3, 4]), CPU)) - head_outputs).abs().amax(dim=(1, 2)) > 1e-6
    assert changed.tolist() == [True, True, False, False]
    alone = dataclasses.replace(features, states=None, graphs=None)
    assert not build(name, alone.sizes(), TARGETS, ModelConfig(vote=("descriptors",))).auxiliary_heads
    two = dataclasses.replace(features, graphs=None)
    assert list(_model("combined", two, vote=("graph", "descriptors")).auxiliary_heads) == ["descriptors"]


def test_hidden_views_are_whole_never_all_and_in_training_only() -> None:
    torch.manual_seed(0)
    fusion = CrossAttention(3, False, 4, 0.0, 2, view_dropout=0.6)
    vectors = torch.ones(2000, 3, 4)
    shown = fusion._hide(vectors)
    assert set(shown.mean(dim=2).unique().tolist()) == {0.0, 1.0}
    assert (shown.sum(dim=(1, 2)) > 0).all()
    # each is hidden with 0.6, but for the molecules that all three would be hidden of, which show them all
    assert shown.mean() == pytest.approx(0.4 + 0.6**3, abs=0.02)
    assert fusion.eval()._hide(vectors) is vectors


def test_cross_attention_is_the_plain_loop_over_molecules() -> None:
    fusion = CrossAttention(2, True, 4, 0.0, 2).eval()
    nn.init.normal_(fusion.gates)
    counts = ([2, 5, 1], [3, 1, 4])
    views = [_encoded(4, own, seed) for seed, own in enumerate(counts)]
    starts = [np.cumsum([0, *own]) for own in counts]
    vectors = []
    for row in range(3):
        tokens, atoms = (
            norm(view.items[start[row] : start[row + 1]]).unsqueeze(0)
            for norm, view, start in zip(fusion.norms, views, starts, strict=True)
        )
        learnt = (fusion.attention[0](tokens, atoms, atoms)[0], fusion.attention[1](atoms, tokens, tokens)[0])
        vectors.append(
            torch.cat(
                [
                    view.vector[row] + gate * own[0].mean(dim=0)
                    for view, gate, own in zip(views, fusion.gates, learnt, strict=True)
                ]
            )
        )
    torch.testing.assert_close(fusion(views), fusion.mix(torch.stack(vectors)), rtol=1e-4, atol=1e-5)


def test_standardize_knows_training_rows_only_and_bears_a_constant_column() -> None:
    train = torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]])
    scale = Standardize(2)
    scale.fit(train)
    out = scale(train)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(2))
    torch.testing.assert_close(out[:, 0].std(correction=0), torch.tensor(1.0))
    assert scale(torch.tensor([[3.0, 7.0]])).tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize("name", PIPELINES)
def test_each_model_overfits_32_molecules(name: str) -> None:
    """It can learn by heart, every weight takes part, and K targets are told apart."""
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
    # gine has one way out for the molecule and one for its atoms; a fusion may use one of them only
    unused = {"combinedSepAtt": "encoders.graph.out", "crossAtt": "none"}.get(name, "encoders.graph.item_out")
    assert {key for key, seen in used.items() if not seen and not key.startswith(unused)} == set()


def test_sizes_of_absent_views_are_zero() -> None:
    assert Features(graphs=_features().graphs).sizes() == Sizes(0, 84, 11, 0)
    assert isinstance(Features(graphs=_features().graphs).batch(np.array([1]), CPU), Batch)


def test_molecules_are_told_apart_by_their_own_rows() -> None:
    batch = _features().batch(np.array([3, 1]), CPU)
    assert batch.size == 2
    for mol in (batch.states_mol, batch.x_mol):
        assert mol is not None
        assert mol[0] == 0
        assert mol[-1] == 1
        assert all(a <= b for a, b in pairwise(mol.tolist()))
