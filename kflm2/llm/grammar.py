"""A grammar for numbers: an LLM under it can write nothing else, so that every answer can be read."""

import re
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor

from kflm2.errors import LLMError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NumberGrammar(LogitsProcessor):
    """Lets a blank, a sign, some digits, a point and a set number of decimals through, then the end; nothing else.

    Without decimals there is no point.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", digits: int, decimals: int) -> None:
        """Find the tokens that numbers are made of.

        Args:
            tokenizer: of the LLM.
            digits: at most before the point.
            decimals: after it.

        Raises:
            LLMError: the tokenizer cannot write numbers.
        """
        self.prompt = 0
        """Tokens before the answer, padding included."""
        self._end = tokenizer.eos_token_id
        point = rf"(\.[0-9]{{0,{decimals}}})?" if decimals else ""
        self._begun = re.compile(rf" ?(-?([0-9]{{1,{digits}}}{point})?)?")
        self._whole = re.compile(rf" ?-?[0-9]{{1,{digits}}}" + (rf"\.[0-9]{{{decimals}}}" if decimals else ""))
        self.texts = number_tokens(tokenizer)
        self._allowed: dict[str, list[int]] = {}
        # every digit must be there as a token of its own, or some number could not be finished
        alone = set(self.texts.values())
        if missing := [own for own in "0123456789" + ("." if decimals else "") if own not in alone]:
            raise LLMError(f"the LLM's tokenizer has no token for {missing[0]!r}, so it cannot answer with numbers")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V), with minus infinity for every token that would make no number."""
        kept = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids[:, self.prompt :].tolist()):
            allowed = self.allowed(ids)
            kept[row, allowed] = scores[row, allowed]
        return kept

    def allowed(self, ids: list[int]) -> list[int]:
        """Tokens that may come after those of an answer so far."""
        if self._end in ids:
            return [self._end]
        # which digits they were does not matter
        written = re.sub(r"[0-9]", "0", "".join(self.texts[own] for own in ids))
        if written not in self._allowed:
            following = [own for own, text in self.texts.items() if self._begun.fullmatch(written + text)]
            self._allowed[written] = following + [self._end] * bool(self._whole.fullmatch(written))
        return self._allowed[written]


def number_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """Token id -> text, of the tokens that hold nothing but digits, sign, point and one leading blank."""
    letter = tokenizer("x", add_special_tokens=False)["input_ids"][-1:]
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    found = {}
    for own, name in enumerate(names):
        # two marks stand for a leading blank; the few that are left are decoded, which takes its time
        if own in special or not name or not re.fullmatch(r"[ \u0120\u2581]?-?[0-9]*\.?[0-9]*", name):
            continue
        # behind a letter: alone, some tokenizers drop a leading blank
        text = str(tokenizer.decode([*letter, own]))[len(tokenizer.decode(letter)) :]
        if re.fullmatch(r" ?-?[0-9]*\.?[0-9]*", text) and text:
            found[own] = text
    return found
