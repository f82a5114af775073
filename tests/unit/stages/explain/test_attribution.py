"""Explanations of a prediction: known properties of attributions, attention, texts of tokens, and the picture."""

import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import MolSurf
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch_geometric.utils import scatter
from transformers import AutoTokenizer

from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import ModelConfig
from kflm2.encoded_view import EncodedView
from kflm2.featurize.average_atom import AverageAtom
from kflm2.featurize.descriptors import rdkit_names
from kflm2.featurize.features import Batch, Features
from kflm2.featurize.graphs import ATOM_FEATURES, BOND_FEATURES, graphs_of
from kflm2.featurize.ragged import Ragged
from kflm2.model import CrossAttention, StatesEncoder, build
from kflm2.stages.explain import attribution, plots
from kflm2.stages.explain.attribution import (
    Attribution,
    baseline_of,
    explain,
    integrate,
    mean_output,
)
from kflm2.stages.explain.canvas import Canvas
from kflm2.stages.explain.meanings import meaning
from kflm2.stages.explain.plots import Explanation
from kflm2.stages.explain.stage import token_texts
from kflm2.trainers.supervised import Ensemble, FittedModel, TargetScaler

SMILES = "CC(=O)Oc1ccccc1F"
TOKENS, WIDTH, DESCRIPTORS, TARGETS = 6, 7, 5, 3
CPU = torch.device("cpu")
AVERAGE = AverageAtom.of([SMILES, "C[N+](C)(C)C", "C=O"])
CASES = [
    ("crossAtt", "gine", False),
    ("combinedSepAtt", "gcn", False),
    ("combined", "gine", True),
    ("combinedAtt", "gcn", True),
    ("combined_base", "gcn", True),
    ("gcn_indepent", "gine", False),
]


def _features(mol: Chem.Mol | None = None, views: tuple[str, ...] = ("states", "graph", "descriptors")) -> Features:
    rng = np.random.default_rng(3)
    states = rng.normal(size=(TOKENS, WIDTH)).astype(np.float32)
    descriptors = rng.normal(size=(1, DESCRIPTORS)).astype(np.float32)
    return Features(
        states=Ragged.pack([states]) if "states" in views else None,
        graphs=graphs_of([mol or Chem.MolFromSmiles(SMILES)]) if "graph" in views else None,
        descriptors=descriptors if "descriptors" in views else None,
    )


def _batch(features: Features) -> Batch:
    return features.batch(np.array([0]), CPU)


def _ensemble(name: str, encoder: str, features: Features, std: float = 0.1, members: int = 2) -> Ensemble:
    """Members with random weights and the same scaling of their inputs."""
    config = ModelConfig(graph_encoder=encoder, graph_width=10, graph_depth=2, states_width=12)
    scaler = TargetScaler.from_moments(np.array([0.0, -3.0, 1.0]), np.array([1.0, std, 1.0]))
    fitted = []
    for seed in range(members):
        torch.manual_seed(seed)
        model = build(name, features.sizes(), TARGETS, config).eval()
        for module in model.modules():
            if isinstance(module, CrossAttention) and module.needs_items:
                nn.init.ones_(module.gates)
            if isinstance(module, StatesEncoder):
                module.scale.fit(torch.linspace(-1, 3, 4 * WIDTH).reshape(4, WIDTH))
        fitted.append(FittedModel(model, scaler, "regression", CPU, 1))
    return Ensemble(fitted, None, features.sizes())


def _views(name: str) -> tuple[str, ...]:
    return (*PIPELINES[name].views, "descriptors")


def test_attributions_of_a_linear_model_are_weight_times_difference() -> None:
    molecule = _batch(_features())
    rng = np.random.default_rng(0)
    fields = ("states", "x", "edge_attr", "descriptors")
    weights = {name: torch.tensor(rng.normal(size=getattr(molecule, name).shape)).float() for name in fields}
    baseline = {name: torch.tensor(rng.normal(size=weight.shape)).float() for name, weight in weights.items()}

    def output(batch: Batch) -> torch.Tensor:
        mol_index = {"states": batch.states_mol, "x": batch.x_mol, "descriptors": torch.arange(batch.size)}
        mol_index["edge_attr"] = batch.x_mol[batch.edge_index[0]]
        total = torch.zeros(batch.size)
        for name, weight in weights.items():
            products = (getattr(batch, name) * weight.repeat(batch.size, 1)).sum(dim=1)
            total = total + scatter(products, mol_index[name], dim_size=batch.size)
        return total

    for steps in (1, 3):
        attributions = integrate(output, molecule, dataclasses.replace(molecule, **baseline), steps)
        for name, weight in weights.items():
            expected = weight * (getattr(molecule, name) - baseline[name])
            np.testing.assert_allclose(attributions[name], expected, rtol=1e-4, atol=1e-6)


def test_factors_of_a_product_get_half_each_in_one_pass_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    molecule = _batch(_features(views=("descriptors",)))
    first, second = molecule.descriptors[0, 1].item(), molecule.descriptors[0, 4].item()
    baseline = dataclasses.replace(molecule, descriptors=torch.zeros(1, DESCRIPTORS))

    def output(batch: Batch) -> torch.Tensor:
        return batch.descriptors[:, 1] * batch.descriptors[:, 4]

    for limit in (attribution._ITEMS, 2):
        monkeypatch.setattr(attribution, "_ITEMS", limit)
        attributions = integrate(output, molecule, baseline, 7)["descriptors"][0]
        expected = [0, first * second / 2, 0, 0, first * second / 2]
        np.testing.assert_allclose(attributions, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("name", "encoder", "pooled"), CASES)
def test_attributions_add_up_to_the_ensembles_prediction(name: str, encoder: str, pooled: bool) -> None:
    features = _features(views=_views(name))
    ensemble = _ensemble(name, encoder, features)
    result = explain(ensemble, _batch(features), AVERAGE, 1, pooled, 256)
    parts = np.concatenate([result.tokens, result.atoms, result.descriptors])
    assert result.complete
    assert abs(result.gap) < 0.01 * np.abs(parts).sum()
    assert abs(result.difference) > 0.03 * np.abs(parts).sum()
    inputs = features
    if pooled and features.states is not None:
        inputs = dataclasses.replace(features, states=Ragged.pack([features.states.values.mean(axis=0, keepdims=True)]))
    assert result.prediction == pytest.approx(ensemble.predict(inputs)[0][0, 1], abs=1e-6)
    sizes = {"graph": 11, "states": TOKENS, "descriptors": DESCRIPTORS}
    for view, values in (("graph", result.atoms), ("states", result.tokens), ("descriptors", result.descriptors)):
        assert len(values) == (sizes[view] if view in _views(name) else 0)
        assert (np.abs(values).sum() > 1e-5) == (view in _views(name))
    shares = result.shares
    assert sum(shares.values()) == pytest.approx(result.total)
    assert [view for view, share in shares.items() if share == 0] == [
        {"states": "tokens"}.get(view, view) for view in ("graph", "states", "descriptors") if view not in _views(name)
    ]


def test_a_view_with_zero_weights_has_no_attribution() -> None:
    features = _features()
    ensemble = _ensemble("crossAtt", "gine", features)
    for member in ensemble.members:
        nn.init.zeros_(member.model.encoders["descriptors"].net[1].weight)
    result = explain(ensemble, _batch(features), AVERAGE, 1, False, 16)
    assert not result.descriptors.any()
    assert result.tokens.all() and result.atoms.all()


def test_attributions_of_bonds_are_shared_by_their_atoms() -> None:
    features = _features(views=("graph",))
    ensemble, molecule = _ensemble("gcn_indepent", "gine", features), _batch(features)
    attributions = integrate(mean_output(ensemble, 1, False), molecule, baseline_of(ensemble, molecule, AVERAGE), 64)
    assert np.abs(attributions["edge_attr"]).max() > 1e-6
    # each bond is in the batch in both directions; its two atoms get half each
    atoms = attributions["x"].sum(axis=1)
    for (a, b), bond in zip(molecule.edge_index.T.tolist(), attributions["edge_attr"].sum(axis=1), strict=True):
        atoms[a] += bond / 2
        atoms[b] += bond / 2
    np.testing.assert_allclose(explain(ensemble, molecule, AVERAGE, 1, False, 64).atoms, atoms, rtol=1e-6)


@pytest.mark.parametrize(("name", "encoder"), [("crossAtt", "gine"), ("combinedSepAtt", "gcn")])
def test_attributions_do_not_depend_on_the_order_of_atoms(name: str, encoder: str) -> None:
    mol = Chem.MolFromSmiles(SMILES)
    order = np.random.default_rng(1).permutation(mol.GetNumAtoms())
    features = _features(mol)
    ensemble = _ensemble(name, encoder, features)
    plain = explain(ensemble, _batch(features), AVERAGE, 1, False, 32)
    reordered = explain(ensemble, _batch(_features(Chem.RenumberAtoms(mol, order.tolist()))), AVERAGE, 1, False, 32)
    np.testing.assert_allclose(reordered.atoms, plain.atoms[order], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(reordered.tokens, plain.tokens, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(reordered.descriptors, plain.descriptors, rtol=1e-3, atol=1e-6)


def test_tokens_of_a_pooled_model_share_the_attribution_of_their_mean() -> None:
    features = _features(views=("states",))
    ensemble = _ensemble("combined_base", "gcn", features)
    whole = explain(ensemble, _batch(features), AVERAGE, 1, True, 32)
    mean = Features(states=Ragged.pack([features.states.values.mean(axis=0, keepdims=True)]))
    single = explain(ensemble, _batch(mean), AVERAGE, 1, False, 32)
    assert len(single.tokens) == 1
    assert whole.tokens.sum() == pytest.approx(single.tokens[0], rel=1e-4)
    assert np.ptp(whole.tokens) > 1e-4


def test_a_token_at_the_training_mean_has_no_attribution() -> None:
    features = _features(views=("states",))
    ensemble = _ensemble("combined_base", "gcn", features)
    features.states.values[2] = ensemble.members[0].model.encoders["states"].scale.mean
    assert np.flatnonzero(explain(ensemble, _batch(features), AVERAGE, 1, True, 8).tokens == 0).tolist() == [2]


def test_the_average_atom_is_the_mean_over_atoms_and_bonds_of_all_molecules() -> None:
    average = AverageAtom.of(["CO", "C", "C#N"])
    assert average.atom[ATOM_FEATURES.index("element C")] == pytest.approx(3 / 5)
    assert average.atom[ATOM_FEATURES.index("element O")] == pytest.approx(1 / 5)
    assert average.bond[BOND_FEATURES.index("bond TRIPLE")] == pytest.approx(1 / 2)
    assert not AverageAtom.of(["C", "[Na+].[Cl-]"]).bond.any()


def test_a_molecule_of_average_atoms_has_no_attribution() -> None:
    features = _features(Chem.MolFromSmiles("CC"), ("graph",))
    ensemble = _ensemble("gcn_indepent", "gine", features)
    result = explain(ensemble, _batch(features), AverageAtom.of(["CC", "CC"]), 1, False, 8)
    assert not result.atoms.any() and result.difference == 0
    assert explain(ensemble, _batch(features), AVERAGE, 1, False, 8).atoms.all()


def test_steps_are_doubled_until_attributions_add_up_or_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    features = _features()
    ensemble, molecule = _ensemble("crossAtt", "gine", features, std=1e-6), _batch(features)
    result = explain(ensemble, molecule, AVERAGE, 1, False, 1)
    assert result.complete and result.steps in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    monkeypatch.setattr(attribution, "MOST_STEPS", 1)
    result = explain(ensemble, molecule, AVERAGE, 1, False, 1)
    assert result.steps == 1 and not result.complete
    assert result.gap == pytest.approx(
        result.difference - result.atoms.sum() - result.tokens.sum() - result.descriptors.sum()
    )


def test_attention_adds_up_to_1_and_is_0_on_padding() -> None:
    torch.manual_seed(4)
    fusion = CrossAttention(2, True, 8, 0.1, 2).eval()
    counts = ([2, 5, 1], [3, 1, 4])
    views = [
        EncodedView(
            torch.randn(3, 8),
            torch.randn(sum(sizes), 8),
            torch.arange(3).repeat_interleave(torch.tensor(sizes)),
        )
        for sizes in counts
    ]
    with torch.inference_mode():
        maps = fusion.attention_maps(views)
        dense = [norm(view.dense()[0]) for norm, view in zip(fusion.norms, views, strict=True)]
        assert [tuple(attention.shape) for attention in maps] == [(3, 5, 4), (3, 4, 5)]
        for attention, (query_counts, key_counts), side in zip(maps, (counts, counts[::-1]), (0, 1), strict=True):
            for row in range(3):
                without_padding = attention[row, : query_counts[row], : key_counts[row]]
                assert attention[row].sum() == pytest.approx(query_counts[row], abs=1e-5)
                torch.testing.assert_close(without_padding.sum(dim=1), torch.ones(query_counts[row]))
                queries, keys = dense[side][row, : query_counts[row]], dense[1 - side][row, : key_counts[row]]
                torch.testing.assert_close(without_padding, fusion.attention[side](queries, keys, keys)[1])


def test_attention_is_the_mean_over_members_and_none_without_cross_attention() -> None:
    features = _features()
    ensemble = _ensemble("crossAtt", "gine", features)
    maps = attribution.attention(ensemble, _batch(features))
    assert maps is not None
    to_atoms, to_tokens = maps
    assert (to_atoms.shape, to_tokens.shape) == ((TOKENS, 11), (11, TOKENS))
    of_members = [
        attribution.attention(dataclasses.replace(ensemble, members=[member]), _batch(features))
        for member in ensemble.members
    ]
    np.testing.assert_allclose(to_atoms, (of_members[0][0] + of_members[1][0]) / 2)
    assert np.abs(of_members[0][1] - of_members[1][1]).max() > 1e-3
    for name, views in (("combined", ("states", "graph")), ("crossAtt", ("graph", "descriptors"))):
        features = _features(views=views)
        assert attribution.attention(_ensemble(name, "gine", features), _batch(features)) is None


def test_token_texts_joined_are_the_smiles(tiny_decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    smiles = "C[C@@H](N)C(=O)O"
    texts = token_texts(tokenizer, smiles)
    assert len(texts) == len(tokenizer(smiles)["input_ids"])
    assert "".join(texts) == smiles
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<unk> $A", special_tokens=[("<unk>", 1)])
    assert token_texts(tokenizer, "CCO") == ("<unk>", "C", "C", "O")


def test_token_texts_of_the_embedded_llm_joined_are_the_smiles(embedded: Path) -> None:
    smiles = "CC(=O)Oc1ccccc1C(=O)O"
    texts = token_texts(AutoTokenizer.from_pretrained(embedded), smiles)
    assert "".join(texts) == smiles
    assert 5 < len(texts) < len(smiles)


def _explained(**changes: object) -> Explanation:
    rng = np.random.default_rng(2)
    result = Attribution(-4.0, -3.0, rng.normal(size=16), rng.normal(size=11), np.array([0.5, -2.0, 0.0]), 64, 0.1)
    explanation = Explanation(
        SMILES, "", "y: -4", "kcal/mol", result, None, attribution.VIEWS, tuple(SMILES), ("a", "b", "c"), np.arange(3.0)
    )
    return dataclasses.replace(explanation, **changes)


def test_a_hostile_name_is_written_as_text() -> None:
    name = "<script>alert(1)</script><sub>x</sub>&amp;\x1b[31m\x00é"
    picture = plots.svg(_explained(name=name))
    assert "<script" not in picture and "<sub" not in picture and "\x1b" not in picture
    root = ElementTree.fromstring(picture)
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title.text == f"<script>alert(1)</script><sub>x</sub>&amp;?[31m?? {SMILES} y: -4"
    assert plots.png(_explained(name=name)).startswith(b"\x89PNG")


def test_markup_in_a_name_is_drawn_as_characters() -> None:
    plain, marked = (plots.svg(_explained(name=name)) for name in ("", "<sup>2</sup> x"))
    assert marked.count("<path") - plain.count("<path") == len("<sup>2</sup>x")


def test_all_tokens_are_drawn_in_order_and_within_the_picture() -> None:
    tokens = ("CC", "(", "<a long name of a token>", *"[C@@H](O)" * 20)
    lines = plots._strip(tokens)
    assert len(lines) > 1
    assert [i for line in lines for _, _, i in line] == list(range(len(tokens)))
    for line in lines:
        assert line[0][0] == 0
        assert line[-1][0] + line[-1][1] <= plots._INNER
        for (left, width, i), (following, _, _) in pairwise(line):
            assert left + width < following
            assert width > Canvas.width(tokens[i], 14)


def test_colours_depend_on_sign_and_saturate_at_the_largest_attribution() -> None:
    explanation = _explained()
    largest = explanation.largest
    assert largest == np.abs(np.concatenate([explanation.attribution.atoms, explanation.attribution.tokens])).max()
    assert plots.colour(0.0, largest) == (1.0, 1.0, 1.0)
    raises, lowers = (plots.colour(sign * largest, largest) for sign in (1, -1))
    assert raises[0] > raises[2] and lowers[2] > lowers[0]
    assert plots.colour(9 * largest, largest) == raises
    assert explanation.weightiest() == [("b", 1.0, -2.0), ("a", 0.0, 0.5), ("c", 2.0, 0.0)]


@pytest.mark.parametrize("smiles", ["[Na+].[Cl-]", "C", "N[C@@H](C)C(=O)O", "C" * 150])
def test_molecules_of_any_size_are_drawn(smiles: str) -> None:
    count = Chem.MolFromSmiles(smiles).GetNumAtoms()
    result = Attribution(1.0, 1.0, np.zeros(len(smiles)), np.zeros(count), np.zeros(0), 64, 0.1)
    explanation = _explained(
        smiles=smiles, attribution=result, tokens=tuple(smiles), descriptors=(), values=np.zeros(0)
    )
    size = re.search(r"width='(\d+)px' height='(\d+)px'", plots.svg(explanation))
    assert size is not None and int(size[1]) == 900 and int(size[2]) < 1200
    assert plots.png(explanation).startswith(b"\x89PNG")


def test_the_headline_and_the_note_are_complete() -> None:
    title = f"{'W' * 36}: predicted -12.34 log-odds (probability 4.12e-05); baseline -1.234; difference -11.11"
    explanation = _explained(title=title, name="n")
    canvas = Canvas(None)
    texts = [text for text, *_ in plots._head(canvas, explanation)]
    assert " ".join(texts) == f"n {SMILES} {title}"
    assert max(canvas.width(text, size) for text, size, _ in plots._head(canvas, explanation)) <= plots._INNER
    longest = dataclasses.replace(explanation.attribution, steps=1024, atoms=np.array([*[0.0123] * 10, -123.4]))
    lines = canvas.wrapped(_explained(attribution=longest).note, 11, plots._INNER, plots._NOTE_LINES)
    assert " ".join(lines) == _explained(attribution=longest).note


def test_a_text_is_broken_at_blanks_and_a_long_word_anywhere() -> None:
    canvas = Canvas(None)
    width = canvas.width("aaaa bb", 10)
    assert canvas.wrapped("aaaa bb cc", 10, width, 3) == ["aaaa bb", "cc"]
    smiles = "C(=O)N" * 30
    lines = canvas.wrapped(smiles, 10, 300, 9)
    assert "".join(lines) == smiles and max(canvas.width(line, 10) for line in lines) <= 300
    lines = canvas.wrapped(smiles, 10, 300, 2)
    assert len(lines) == 2 and lines[1].endswith("...") and canvas.width(lines[1], 10) <= 300


def test_one_outlier_does_not_make_the_other_atoms_pale_and_is_named() -> None:
    atoms = np.full(11, 0.1)
    atoms[9] = -8.0
    explanation = _explained(attribution=dataclasses.replace(_explained().attribution, atoms=atoms, tokens=np.ones(16)))
    assert explanation.largest == 1.0
    few = dataclasses.replace(explanation.attribution, tokens=np.full(16, 0.05))
    explanation = _explained(attribution=few)
    assert 0.1 <= explanation.largest <= 0.2
    assert explanation.beyond == ["C9 -8"]
    assert "C9 -8" in explanation.note
    assert plots.colour(-8.0, explanation.largest) == plots._LOWERS
    # of few parts, none is an outlier
    ordinary = _explained(attribution=dataclasses.replace(few, atoms=np.linspace(-1, 0.7, 11)))
    assert ordinary.largest == 1.0 and not ordinary.beyond and "Beyond" not in ordinary.note


def test_rounding_errors_of_a_network_that_counts_for_nothing_stay_pale() -> None:
    attribution = _explained().attribution
    nothing = dataclasses.replace(
        attribution,
        atoms=1e-18 * attribution.atoms,
        tokens=1e-18 * attribution.tokens,
        descriptors=1e-18 * attribution.descriptors,
    )
    explanation = _explained(attribution=nothing)
    assert explanation.largest == pytest.approx(0.1 * attribution.allowed)
    assert plots.colour(float(nothing.atoms.max()), explanation.largest) == pytest.approx((1.0, 1.0, 1.0))
    assert not explanation.beyond


def test_every_atom_of_the_table_has_its_number_in_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(
        plots.rdMolDraw2D.MolDraw2DSVG,
        "DrawMolecule",
        lambda self, mol, **_: drawn.append([atom.GetPropsAsDict().get("atomNote") for atom in mol.GetAtoms()]),
    )
    # the drawing has an added hydrogen at the stereocentre of two rings, which no table names
    smiles = "C1CC[C@H]2CCCC[C@@H]2C1"
    atoms = np.ones(Chem.MolFromSmiles(smiles).GetNumAtoms())
    result = Attribution(1.0, 0.0, np.zeros(len(smiles)), atoms, np.zeros(0), 64, 0.1)
    plots.svg(_explained(smiles=smiles, attribution=result, tokens=tuple(smiles), descriptors=(), values=np.zeros(0)))
    assert [int(note) for note in drawn[0][: len(atoms)]] == list(range(len(atoms)))
    assert len(drawn[0]) > len(atoms) and not any(drawn[0][len(atoms) :])


def test_a_lone_bar_does_not_fill_its_side(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = {}
    for names in (("a",), ("a", "a")):
        boxes: list[float] = []
        monkeypatch.setattr(Canvas, "box", lambda self, x, y, width, *_, boxes=boxes, **__: boxes.append(width))
        drawer = plots.rdMolDraw2D.MolDraw2DSVG(900, 100)
        rows = [(name, 2.0, "") for name in names]
        plots._draw_bars(Canvas(drawer), "title", rows, 0, 400, 0, _explained())
        widths[len(names)] = boxes[0]
    assert widths[1] == pytest.approx(widths[2] / 2)


@pytest.mark.parametrize(("tokens", "atoms"), [(1, 1), (8, 5), (79, 44), (400, 150), (30, 150)])
def test_an_attention_picture_is_bounded_and_its_labels_do_not_overlap(tokens: int, atoms: int) -> None:
    rng = np.random.default_rng(0)
    to_atoms, to_tokens = rng.random((tokens, atoms)), rng.random((atoms, tokens))
    figure = plots.attention(to_atoms, to_tokens, ("$x",) * tokens, "C" * atoms)
    assert all(figure.get_size_inches() <= (10.0001, 11.0001))
    for axis, weights in zip(figure.axes[::2], (to_atoms.T, to_tokens), strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), weights)
        box = axis.get_position()
        width, height = box.width * figure.get_figwidth(), box.height * figure.get_figheight()
        assert height / atoms == pytest.approx(width / tokens) and height / atoms < 0.18
        for labels, length in ((axis.get_xticklabels(), width), (axis.get_yticklabels(), height)):
            assert labels[0].get_text() in ("$x", "C0")
            # in points; the smallest font is as high as a label's share of the axis
            assert len(labels) * labels[0].get_fontsize() <= 72 * length + labels[0].get_fontsize()
            assert labels[0].get_fontsize() >= 4.8
    assert figure.axes[0].get_yticklabels()[-1].get_text() == f"C{int(figure.axes[0].get_yticks()[-1])}"


def test_every_descriptor_has_a_meaning_that_fits_into_the_picture() -> None:
    width = plots._INNER * 0.58
    for name in rdkit_names():
        assert meaning(name), name
        assert Canvas.width(meaning(name), 11) <= width, name
    assert meaning("Morgan bit 7") == "a substructure around an atom, of radius <= 2 bonds"
    assert meaning("of another version of RDKit") == ""


def test_meanings_agree_with_rdkit() -> None:
    # the bins of RDKit's surface areas are numbered from 1
    for family, bins in (("PEOE_VSA", MolSurf.chgBins), ("SMR_VSA", MolSurf.mrBins), ("SlogP_VSA", MolSurf.logpBins)):
        for number in range(2, len(bins) + 1):
            low, high = re.search(r" of (\S+) to (\S+)$", meaning(f"{family}{number}")).groups()
            assert (float(low), float(high)) == pytest.approx((bins[number - 2], bins[number - 1]))
        assert meaning(f"{family}1").endswith(f"below {bins[0]:.2f}")
    assert meaning("fr_NH0") == "number of tertiary amines"
    assert meaning("NumSpiroAtoms").startswith("number of spiro atoms")
    assert meaning("BCUT2D_MWHI") == "highest eigenvalue of the connectivity matrix with atomic mass"
