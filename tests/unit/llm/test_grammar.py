"""The number grammar: an LLM under it writes numbers and nothing else."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kflm2.errors import LLMError
from kflm2.llm.grammar import NumberGrammar, number_tokens
from kflm2.stages.prompt.templates import parse_number


def _draw(grammar: NumberGrammar, tokenizer: PreTrainedTokenizerBase, seed: int, rows: int = 4) -> list[str]:
    """Answers from random scores under the grammar."""
    generator = torch.Generator().manual_seed(seed)
    grammar.prompt_length = 3
    ids = torch.zeros(rows, grammar.prompt_length, dtype=torch.long)
    for _ in range(30):
        scores = 20 * torch.randn(rows, len(tokenizer), generator=generator)
        ids = torch.cat([ids, grammar(ids, scores).argmax(dim=-1, keepdim=True)], dim=1)
    assert (ids[:, -1] == tokenizer.eos_token_id).all(), "an answer has no end token"
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in ids[:, grammar.prompt_length :]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), digits=st.integers(1, 6), decimals=st.integers(0, 6))
def test_answers_under_the_grammar_are_numbers_of_the_format(
    tiny_tokenizer: PreTrainedTokenizerBase, seed: int, digits: int, decimals: int
) -> None:
    for text in _draw(NumberGrammar(tiny_tokenizer, digits, decimals), tiny_tokenizer, seed):
        value = parse_number(text)
        assert value is not None
        assert abs(value) < 10**digits
        assert len(text.partition(".")[2]) == decimals


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_writer: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_writer)


def test_the_embedded_llms_tokenizer_writes_numbers(embedded: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    texts = number_tokens(tokenizer)
    assert {*"0123456789", ".", "-", " ", " -"} <= set(texts.values())
    assert all(tokenizer.decode([token]).strip() == text.strip() for token, text in texts.items())
    answers = {text for seed in range(20) for text in _draw(NumberGrammar(tokenizer, 2, 1), tokenizer, seed, 8)}
    assert all(parse_number(text) is not None for text in answers)
    assert any("-" in text for text in answers)
    # the grammar allows the tokens of training answers
    grammar = NumberGrammar(tokenizer, 2, 2)
    for answer in (" -12.34", " 0.05", " 7.00"):
        ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert all(token in grammar.allowed(ids[:i]) for i, token in enumerate(ids))


def test_a_tokenizer_without_digits_is_an_error(tiny_decoder: Path) -> None:
    with pytest.raises(LLMError, match="no token for '0'"):
        NumberGrammar(AutoTokenizer.from_pretrained(tiny_decoder), 2, 2)
