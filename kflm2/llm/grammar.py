"""A grammar for numbers: constrains an LLM so that every answer can be parsed as a number."""

import re
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor

from kflm2.errors import LLMError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class NumberGrammar(LogitsProcessor):
    """Allows an optional space, a sign, digits, a point and a fixed number of decimals, then the end token.

    With 0 decimals there is no point.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", digits: int, decimals: int) -> None:
        """Collect the tokens of which numbers consist.

        Args:
            tokenizer: of the LLM.
            digits: maximum number of digits before the point.
            decimals: number of digits after it.

        Raises:
            LLMError: the tokenizer cannot write numbers.
        """
        self.prompt_length = 0
        """Number of tokens before the answer, with padding."""
        self._end = tokenizer.eos_token_id
        point = rf"(\.[0-9]{{0,{decimals}}})?" if decimals else ""
        self._prefix = re.compile(rf" ?(-?([0-9]{{1,{digits}}}{point})?)?")
        self._complete = re.compile(rf" ?-?[0-9]{{1,{digits}}}" + (rf"\.[0-9]{{{decimals}}}" if decimals else ""))
        self.texts = number_tokens(tokenizer)
        self._allowed: dict[str, list[int]] = {}
        # every digit needs its own token, otherwise some numbers could not be completed
        texts = set(self.texts.values())
        if missing := [char for char in "0123456789" + ("." if decimals else "") if char not in texts]:
            raise LLMError(f"the LLM's tokenizer has no token for {missing[0]!r}, so it cannot answer with numbers")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V), set to minus infinity for every token that the grammar does not allow."""
        masked = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            allowed = self.allowed(ids)
            masked[row, allowed] = scores[row, allowed]
        return masked

    def allowed(self, ids: list[int]) -> list[int]:
        """Token ids that may follow the token ids of an incomplete answer."""
        if self._end in ids:
            return [self._end]
        # the values of the digits do not matter
        answer = re.sub(r"[0-9]", "0", "".join(self.texts[token] for token in ids))
        if answer not in self._allowed:
            following = [token for token, text in self.texts.items() if self._prefix.fullmatch(answer + text)]
            self._allowed[answer] = following + [self._end] * bool(self._complete.fullmatch(answer))
        return self._allowed[answer]


def number_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """Token id -> text, for the tokens that consist of digits, sign, point and one leading space only."""
    letter = tokenizer("x", add_special_tokens=False)["input_ids"][-1:]
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    texts = {}
    for token, name in enumerate(names):
        # two characters are marks for a leading space; only the few matching tokens are decoded, which is slow
        if token in special or not name or not re.fullmatch(r"[ \u0120\u2581]?-?[0-9]*\.?[0-9]*", name):
            continue
        # decoded after a letter: without it, some tokenizers drop a leading space
        text = str(tokenizer.decode([*letter, token]))[len(tokenizer.decode(letter)) :]
        if re.fullmatch(r" ?-?[0-9]*\.?[0-9]*", text) and text:
            texts[token] = text
    return texts
