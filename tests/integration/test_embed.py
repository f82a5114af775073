"""`kflm2 embed`: vectors of a saved model, by a tiny random LLM and by graph networks."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from commands import status_of
from pyarrow import parquet
from transformers import AutoModel, AutoTokenizer

from kflm2.cli import stages
from kflm2.config.embed import EmbedConfig
from kflm2.featurize.embeddings import Embedder
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import build_graphs
from kflm2.predictor import chunks as row_chunks
from kflm2.predictor import formats
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.predictor import Predictor
from kflm2.stages import embed as embed_stage

# in standard form, which is what the models read
SMILES = ["CCO", "CC(C)Cc1ccccc1", "C", "CC(=O)Nc1ccccc1", "OCCO", "CCN(CC)CC", "Clc1ccccc1", "CC=O", "CC#N", "CCCCCC"]


def _train(folder: Path, *arguments: object) -> Path:
    settings = "--dataset SAMPL --limit 60 --fractions 0.6 0.2 0.2 --epochs 2".split()
    assert status_of(stages.train, *settings, "--out", folder / "results", "--save", folder / "model", *arguments) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Path:
    """Two networks of inner folds, whose tokens and atoms attend to each other; no descriptors, to be quick."""
    options = ("--model", "crossAtt", "--llm", tiny_decoder, "--layers", "2,3", "--views", "states", "graph")
    return _train(tmp_path_factory.mktemp("fused"), *options, "--ensemble", 2, "--precision", "float32")


@pytest.fixture(scope="module")
def graph_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tmp_path_factory.mktemp("graph"), "--model", "gcn_indepent", "--ensemble", 1)


@pytest.fixture
def embed(tmp_path: Path, tiny_decoder: Path) -> Callable[..., pd.DataFrame]:
    def run(model: Path, *arguments: object, status: int = 0) -> pd.DataFrame:
        out = tmp_path / "vectors.parquet"
        out.unlink(missing_ok=True)
        assert status_of(stages.embed, model, *arguments, "--llm", tiny_decoder, "--out", out) == status
        return pd.read_parquet(out)

    return run


def _vectors(table: pd.DataFrame) -> np.ndarray:
    return np.stack(table["vector"])


def test_states_are_the_means_of_the_llms_own_hidden_states(
    fused: Path, tiny_decoder: Path, embed: Callable[..., pd.DataFrame]
) -> None:
    table = embed(fused, *SMILES, "--vectors", "states")
    llm, tokenizer = AutoModel.from_pretrained(tiny_decoder), AutoTokenizer.from_pretrained(tiny_decoder)
    expected = []
    for smiles in SMILES:  # one at a time: no padding
        with torch.inference_mode():
            hidden = llm(**tokenizer(smiles, return_tensors="pt"), output_hidden_states=True).hidden_states
        expected.append(torch.cat([hidden[2], hidden[3]], dim=-1)[0].mean(dim=0).numpy())
    np.testing.assert_allclose(_vectors(table), expected, rtol=1e-4, atol=1e-5)
    assert table.columns.tolist() == ["row", "smiles", "status", "vector"]
    assert table["smiles"].tolist() == SMILES and table["row"].tolist() == list(range(1, 11))


def test_fused_and_graph_vectors_are_those_of_the_first_network(
    fused: Path, tiny_decoder: Path, embed: Callable[..., pd.DataFrame]
) -> None:
    bundle = load_bundle(fused, str(tiny_decoder))
    assert bundle.source is not None
    embedder = Embedder(bundle.source, torch.device("cpu"))
    networks = [member.model for member in bundle.ensemble.all_members]
    read: list[list[np.ndarray]] = [[], []]
    graphs: list[np.ndarray] = []
    for smiles in SMILES:  # one molecule at a time, up to the number that the head reads
        features = Features(embedder.embed_uncached([smiles], "tokens"), build_graphs([smiles]))
        batch = features.batch(np.array([0]), torch.device("cpu"))
        with torch.inference_mode():
            for vectors, network in zip(read, networks, strict=True):
                inputs: list[torch.Tensor] = []
                handle = network.head.register_forward_pre_hook(lambda _, args, kept=inputs: kept.append(args[0]))
                network(batch)
                handle.remove()
                vectors.append(inputs[0][0].numpy())
            graphs.append(networks[0].encoders["graph"](batch, True).vector[0].numpy())
    first, second = map(np.stack, read)
    fused_vectors = _vectors(embed(fused, *SMILES))
    np.testing.assert_allclose(fused_vectors, first, rtol=1e-3, atol=1e-4)
    assert np.abs(first - second).max() > 0.1  # another network, or a mean, would be seen
    np.testing.assert_allclose(_vectors(embed(fused, *SMILES, "--vectors", "graph")), graphs, rtol=1e-4, atol=1e-5)
    assert fused_vectors.shape == (len(SMILES), bundle.config.hidden) and fused_vectors.dtype == np.float32


@pytest.mark.parametrize("vectors", ["states", "graph", "fused"])
def test_order_and_neighbours_change_no_vector(
    fused: Path, embed: Callable[..., pd.DataFrame], vectors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = _vectors(embed(fused, *SMILES, "--vectors", vectors))
    monkeypatch.setattr(row_chunks, "CHUNK", 3)
    order = np.random.default_rng(0).permutation(len(SMILES))
    shuffled = _vectors(embed(fused, *(SMILES[i] for i in order), "--vectors", vectors, "--jobs", 2))
    np.testing.assert_allclose(shuffled, together[order], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("vectors", ["states", "graph", "fused"])
def test_a_row_that_cannot_be_read_keeps_its_place_and_has_the_status_of_a_prediction(
    fused: Path, tiny_decoder: Path, tmp_path: Path, embed: Callable[..., pd.DataFrame], vectors: str
) -> None:
    path = tmp_path / "t.csv"
    smiles = ["OCC", "C1CC", "", "C" * 30, "C" * 601, "CCO"]
    pd.DataFrame({"SMILES": smiles, "id": list("abcdef")}).to_csv(path, index=False)
    columns = ("--smiles-column", "SMILES", "--name-column", "id")
    table = embed(fused, path, *columns, "--vectors", vectors, status=3)
    predicted = tmp_path / "p.csv"
    assert status_of(stages.predict, fused, path, *columns, "--llm", tiny_decoder, "-o", predicted) == 3
    expected = pd.read_csv(predicted, keep_default_na=False)["status"].tolist()
    if vectors == "graph":  # reads no LLM, whose context is 24 tokens
        expected[3] = "ok"
    assert table["status"].tolist() == expected and expected[:3] == ["ok", expected[1], "no SMILES"]
    assert table["name"].tolist() == list("abcdef") and table["smiles"].tolist() == smiles
    assert table["vector"].notna().tolist() == [status == "ok" for status in expected]
    # written in another way, the same molecule; its padding in the batch may be another
    np.testing.assert_allclose(table["vector"][0], table["vector"][5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vectors", ["states", "fused"])
def test_float16_is_float32_rounded(fused: Path, embed: Callable[..., pd.DataFrame], vectors: str) -> None:
    exact = _vectors(embed(fused, *SMILES, "--vectors", vectors))
    rounded = _vectors(embed(fused, *SMILES, "--vectors", vectors, "--dtype", "float16"))
    assert rounded.dtype == np.float16
    assert np.array_equal(rounded, exact.astype(np.float16)) and not np.array_equal(rounded, exact)


def test_a_number_beyond_the_range_of_float16_is_cut(
    graph_only: Path, embed: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(graph_only)
    with torch.no_grad():
        bundle.ensemble.members[0].model.encoders["graph"].out.bias[0] = -1e6
    bundle.save(graph_only.parent / "large", "card")
    vectors = _vectors(embed(graph_only.parent / "large", "CCO", "--dtype", "float16"))
    assert vectors[0, 0] == -65504 and np.isfinite(vectors).all()


def _many(tmp_path: Path) -> Path:
    path = tmp_path / "many.smi"
    path.write_text("".join(f"{smiles} m\n" for smiles in [*SMILES * 5, "C((", *SMILES * 3]))
    return path


@pytest.mark.parametrize("vectors", ["states", "fused"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    fused: Path, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectors: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(row_chunks, "CHUNK", 16)
    monkeypatch.setattr(formats, "_ROW_GROUP", 32)
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"

    def config(path: Path) -> EmbedConfig:
        source = (str(_many(tmp_path)),)
        return EmbedConfig(model=fused, molecules=source, llm=str(tiny_decoder), jobs=1, out=path, vectors=vectors)

    assert embed_stage.run(config(whole)) == 1
    calls: list[row_chunks.ReadChunk] = []
    embed = embed_stage.ChunkEmbedder.table

    def interrupted(self: embed_stage.ChunkEmbedder, done: row_chunks.ReadChunk) -> pd.DataFrame:
        if len(calls) == 3:  # the header, and two chunks
            raise KeyboardInterrupt
        calls.append(done)
        return embed(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(embed_stage.ChunkEmbedder, "table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed_stage.run(config(out))
    assert not out.exists()
    with open(f"{out}.part", "ab") as file:
        file.write(b"half a message")  # as after a kill in the middle of a write
    capfd.readouterr()
    assert embed_stage.run(config(out)) == 1
    assert "going on after row 32 of" in capfd.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("out.*.*"))
    table = pd.read_parquet(out)
    assert table["row"].tolist() == list(range(1, 82)) and table["status"].ne("ok").to_numpy().nonzero()[0] == [50]
    assert parquet.ParquetFile(out).metadata.num_row_groups == 3


@pytest.mark.parametrize("changes", [{"vectors": "graph"}, {"dtype": "float16"}])
def test_the_file_of_other_vectors_is_not_continued(
    fused: Path, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(row_chunks, "CHUNK", 16)
    out = tmp_path / "out.parquet"
    settings: dict[str, Any] = {"model": fused, "llm": str(tiny_decoder), "jobs": 1, "out": out}
    settings["molecules"] = (str(_many(tmp_path)),)
    with monkeypatch.context() as patch:
        patch.setattr(formats, "finish", lambda part, out: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed_stage.run(EmbedConfig(**settings))
    assert Path(f"{out}.part").exists()
    assert embed_stage.run(EmbedConfig(**settings, **changes)) == 1
    assert "going on" not in capfd.readouterr().err
    kind = parquet.read_schema(out).field("vector").type
    assert kind.value_type == (pa.float16() if "dtype" in changes else pa.float32())


def test_a_row_group_ends_where_its_vectors_take_much_memory(
    graph_only: Path, tmp_path: Path, embed: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_chunks, "CHUNK", 16)
    monkeypatch.setattr(formats, "_GROUP_BYTES", 1)
    assert len(embed(graph_only, _many(tmp_path), status=3)) == 81
    metadata = parquet.ParquetFile(tmp_path / "vectors.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [16, 16, 16, 16, 16, 1]


def test_shards_joined_are_the_whole(fused: Path, tmp_path: Path, embed: Callable[..., pd.DataFrame]) -> None:
    source = _many(tmp_path)
    whole = embed(fused, source, status=3)
    parts = [embed(fused, source, "--shard", f"{number}/2", status=status) for number, status in ((1, 0), (2, 3))]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


def test_standard_input_is_read(
    graph_only: Path, embed: Callable[..., pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(SMILES).encode())))
    assert np.array_equal(_vectors(embed(graph_only, "-")), _vectors(embed(graph_only, *SMILES)))


def test_a_graphs_vector_needs_neither_llm_nor_descriptors_and_states_no_graph(fused: Path, tiny_decoder: Path) -> None:
    predictor = Predictor(load_bundle(fused, str(tiny_decoder)))
    graph, states = (embed_stage.featurizer(name, predictor)(SMILES) for name in ("graph", "states"))
    assert graph.features.graphs is not None and states.features.graphs is None
    reader = row_chunks.ChunkReader(None, embed_stage.featurizer("graph", predictor))
    predictor._embedder = None
    embedder = embed_stage.ChunkEmbedder(reader, predictor, "graph", np.dtype("float32"))
    table = embedder.table(row_chunks.ReadChunk(row_chunks.Chunk(0, []), SMILES, graph))
    assert table["vector"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vectors", "states"], "vectors states: the model reads no LLM; give --vectors fused or graph"),
        (["-o", "a.csv"], "out a.csv: vectors are written as .parquet"),
        (["--shard", "3/2"], "shard '3/2': give I/N, such as 2/4"),
    ],
)
def test_an_error_is_one_line(
    graph_only: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert status_of(stages.embed, graph_only, "CCO", *arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.glob("*.parquet*"))


def test_a_model_without_graph_has_no_vector_of_it(
    tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = ("--llm", tiny_decoder)
    model = _train(tmp_path, "--model", "combined_base", *llm, "--layers", "last", "--ensemble", 1)
    capsys.readouterr()
    assert status_of(stages.embed, model, "CCO", "--vectors", "graph", *llm, "-o", tmp_path / "v.parquet") == 2
    error = "error: vectors graph: the model reads no graph; give --vectors fused or states\n"
    assert capsys.readouterr().err == error
