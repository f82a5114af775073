"""Evaluation of an LLM: correct metrics, and an unchanged state of the global random numbers."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from kflm2.data.corpus import CorpusFilter
from kflm2.data.datasets import find
from kflm2.data.reading import read_table
from kflm2.llm.decoding import load_decoder
from kflm2.stages.finetune import evaluation
from kflm2.stages.finetune.evaluation import (
    LLMEvaluation,
    Perplexity,
    SampleStatistics,
    canonical,
    mean_states,
    perplexity,
    probe,
    sample,
    trained_among,
)

CPU = torch.device("cpu")


def test_the_statistics_of_samples_are_those_of_the_moses_benchmark() -> None:
    texts = ["CCO", "OCC", "C(C)O", "c1ccccc1", "CC", "C(", "C C", ""]
    known = trained_among(texts, ["C(O)C", "CCCC", "CC"])
    assert known == {"CCO", "CC"}
    # five are valid, three of them different, one of these new
    assert SampleStatistics.of(texts, known) == SampleStatistics(8, 5 / 8, 3 / 5, 1 / 3)
    assert SampleStatistics.of(["C("], set()) == SampleStatistics(1, 0.0, 0.0, 0.0)
    assert canonical("C(C)O") == "CCO"
    assert canonical("") is None


def test_samples_follow_the_llms_probabilities(tiny_decoder: Path) -> None:
    llm, tokenizer = load_decoder(tiny_decoder, CPU)
    torch.manual_seed(5)
    texts = sample(llm, tokenizer, ["CCO", "N"], 400, seed=1)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after, "the global random numbers were used"
    assert texts == sample(llm, tokenizer, ["CCO", "N"], 400, seed=1)
    assert texts != sample(llm, tokenizer, ["CCO", "N"], 400, seed=2)
    assert {text[:1] for text in texts} == {"C", "N"}
    # the frequencies of the second token against the model's probabilities
    first = torch.tensor([[tokenizer.convert_tokens_to_ids("C")]])
    with torch.inference_mode():
        expected = torch.softmax(llm.eval()(input_ids=first).logits[0, -1], dim=-1)
    ids = [tokenizer(text)["input_ids"] for text in texts[::2]]
    end_share = np.mean([len(tokens) == 1 for tokens in ids])
    counts = np.bincount([tokens[1] for tokens in ids if len(tokens) > 1], minlength=len(expected)) / len(ids)
    special = set(tokenizer.all_special_ids)
    for token, share in enumerate(expected.tolist()):
        if token not in special:
            assert counts[token] == pytest.approx(share, abs=0.12)
    assert end_share == pytest.approx(expected[tokenizer.eos_token_id].item(), abs=0.12)


def test_rare_tokens_are_drawn_too(tiny_writer: Path) -> None:
    """With equal probabilities of all tokens, no part of the vocabulary is cut off, as generation does by default."""
    llm, tokenizer = load_decoder(tiny_writer, CPU)
    with torch.no_grad():
        llm.model.norm.weight.zero_()
    second = {text[1:2] for text in sample(llm, tokenizer, ["C"], 800, seed=0)}
    assert len(second) > 85


def test_perplexity_per_character_does_not_depend_on_how_characters_are_joined_to_tokens(embedded: Path) -> None:
    llm, tokenizer = load_decoder(embedded, CPU)
    with torch.no_grad():
        llm.model.norm.weight.zero_()  # all tokens have the same probability
    smiles = ["CCO", "C1CCCCC1N", "ClCBr"]  # of 1 to 7 tokens
    tokens = [tokenizer.tokenize(text) for text in smiles]
    count = sum(map(len, tokens))  # the first is not predicted, the end is
    characters = sum(len("".join(row[1:])) + 1 for row in tokens)
    assert count < characters
    result = perplexity(llm, tokenizer, smiles, 24)
    size = llm.config.vocab_size
    assert result.per_token == pytest.approx(size, rel=1e-4)
    assert result.per_character == pytest.approx(size ** (count / characters), rel=1e-4)


def test_the_perplexity_of_random_smiles_is_of_the_same_molecules_in_another_order(
    tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, tokenizer = load_decoder(tiny_decoder, CPU)
    read = []

    def recorded(*args: Any) -> Perplexity:
        read.append(args[2])
        return perplexity(*args)

    monkeypatch.setattr(evaluation, "perplexity", recorded)
    held_out = ["OCCN", "CC(=O)NC", "C" * 22]
    empty = CorpusFilter(Path("unused.smi"))
    metrics = LLMEvaluation(empty, held_out, ["C"], tokenizer, 24, seed=3, samples=0).evaluate_text(llm)
    assert set(metrics) == {"perplexity", "perplexity_of_random_smiles"}
    assert read[0] == held_out
    assert read[1] != held_out
    assert list(map(canonical, read[1])) == list(map(canonical, held_out))
    assert max(map(len, read[1])) <= 22


def test_the_probe_is_a_cross_validated_linear_model_of_the_states(
    tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KFLM2_DATASETS", raising=False)
    llm, tokenizer = load_decoder(tiny_decoder, CPU)
    monkeypatch.setattr(evaluation, "_PENALTIES", [1e-8])  # almost no penalty: ordinary least squares, written out here
    rmse = probe(llm, tokenizer, 1 << 30)
    molecules = read_table(find("SAMPL"))
    x, y = mean_states(llm, tokenizer, molecules.smiles, 1 << 30), molecules.y_true[:, 0]
    y_pred = np.zeros_like(y)
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        y_pred[test] = LinearRegression().fit(x[train], y[train]).predict(x[test])
    assert rmse["SAMPL"] == pytest.approx(np.sqrt(np.mean((y - y_pred) ** 2)), rel=1e-3)


def test_states_do_not_depend_on_the_batch_and_are_computed_without_dropout(tiny_decoder: Path) -> None:
    llm, tokenizer = load_decoder(tiny_decoder, CPU)
    texts = ["CCO", "C1CCCCC1N", "O", "CCCCCCCC", "N"] * 9
    llm.train()
    whole = mean_states(llm, tokenizer, texts, 24)
    assert llm.training
    for i in (0, 1, 2):
        np.testing.assert_allclose(mean_states(llm, tokenizer, [texts[i]], 24)[0], whole[i], rtol=1e-5, atol=1e-5)


def test_before_and_after_are_compared_and_the_samples_are_written(tiny_decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.smi").write_text("C\nN\nCC\nNN\n")
    llm, tokenizer = load_decoder(tiny_decoder, CPU)
    llm_evaluation = LLMEvaluation(
        CorpusFilter(tmp_path / "own.smi"), ["CCN"], ["C", "N"], tokenizer, 24, seed=0, samples=200
    )
    before = llm_evaluation.evaluate_text(llm)
    with torch.no_grad():  # an LLM that ends at once: it samples C and N, both in the training SMILES
        llm.lm_head.weight.zero_()
        llm.lm_head.weight[tokenizer.eos_token_id] = 1e3
        llm.model.norm.weight.fill_(0.0)
        llm.lm_head.bias = torch.nn.Parameter(torch.zeros(llm.lm_head.out_features))
        llm.lm_head.bias[tokenizer.eos_token_id] = 50.0
    after = llm_evaluation.evaluate_text(llm)
    comparison = llm_evaluation.compare(before, after)
    assert comparison["held_out"] == 1
    assert comparison["after"]["sampled"] == {"number": 200, "valid": 1.0, "unique": 2 / 200, "novel": 0.0}
    assert comparison["before"]["sampled"]["valid"] < 1
    for name in ("perplexity", "perplexity_of_random_smiles"):
        assert comparison["after"][name]["per_token"] > comparison["before"][name]["per_token"]
    llm_evaluation.write_samples(tmp_path / "samples.csv")
    with (tmp_path / "samples.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["when"] for row in rows] == ["before"] * 200 + ["after"] * 200
    assert {(row["text"], row["smiles"], row["taught"]) for row in rows[200:]} == {
        ("C", "C", "True"),
        ("N", "N", "True"),
    }
