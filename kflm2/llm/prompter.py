"""An LLM that is asked, many prompts at a time: answers and their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
)

from kflm2.errors import LLMError
from kflm2.llm.decoding import IGNORE, by_length, eval_mode, hidden_states
from kflm2.llm.grammar import NumberGrammar

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH = 64
"""Prompts asked at a time."""
_LOGITS = 512
"""Tokens whose logits over the whole vocabulary are in memory at once."""
_MOST_TOKENS = 16
"""Of an answer that no grammar bounds."""


@dataclass(frozen=True)
class Row:
    """A prompt with its answer as tokens."""

    ids: list[int]
    labels: list[int]
    """The same, IGNORE where nothing is to be learnt."""


class Prompter:
    """An LLM that is asked, with its tokenizer."""

    def __init__(self, llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        self.llm, self.tokenizer = llm, tokenizer

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Tokens of prompts, as they are when an answer follows."""
        return self.tokenizer(list(prompts), add_special_tokens=True)["input_ids"]

    def answer_ids(self, answers: Sequence[str]) -> list[list[int]]:
        """Tokens of answers, each of which begins with a blank.

        They are cut apart from the prompt's, so that asking and teaching give the same tokens; and behind a letter,
        since some tokenizers write the begin of a text in their own way.
        """
        (letter,) = self.tokenizer(["x"], add_special_tokens=False)["input_ids"]
        written = self.tokenizer([f"x{answer}" for answer in answers], add_special_tokens=False)["input_ids"]
        assert all(ids[: len(letter)] == letter for ids in written)
        return [ids[len(letter) :] for ids in written]

    def rows(self, prompts: Sequence[str], answers: Sequence[str], whole_text: bool = False) -> list[Row]:
        """Prompts with answers and the end token to learn from.

        Args:
            prompts: n
            answers: n
            whole_text: learn the prompts' tokens too.
        """
        rows = []
        for prompt, answer in zip(self.prompt_ids(prompts), self.answer_ids(answers), strict=True):
            answered = [*answer, self.tokenizer.eos_token_id]
            rows.append(Row(prompt + answered, (prompt if whole_text else [IGNORE] * len(prompt)) + answered))
        return rows

    def collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Tensors of a batch, padded to the right: input_ids, labels (B, T), and attention_mask (B, T) bool."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.eos_token_id)
        labels = torch.full_like(ids, IGNORE)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for place, row in enumerate(rows):
            own = slice(len(row.ids))
            ids[place, own], labels[place, own], mask[place, own] = (
                torch.tensor(row.ids),
                torch.tensor(row.labels),
                True,
            )
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    @torch.inference_mode()
    def log_likelihoods(self, rows: Sequence[Row]) -> np.ndarray:
        """(n,) log-likelihood of each row's labels, summed over them."""
        out = np.zeros(len(rows))
        headed: Any = self.llm
        # in float32: bfloat16's steps are as coarse as the difference of two answers
        head, bias = headed.lm_head.weight.float(), headed.lm_head.bias
        with eval_mode(self.llm):
            for batch in by_length([len(row.ids) for row in rows], _BATCH):
                own = {
                    name: value.to(self.llm.device) for name, value in self.collate([rows[i] for i in batch]).items()
                }
                read = hidden_states(self.llm, own["input_ids"], own["attention_mask"])
                labels = own["labels"][:, 1:]
                judged = labels != IGNORE
                rows_of, wanted = judged.nonzero()[:, 0], labels[judged]
                total = torch.zeros(len(batch), dtype=torch.float32, device=wanted.device)
                hidden = headed.model.norm(read[:, :-1][judged]).float()
                for start in range(0, len(wanted), _LOGITS):
                    part = slice(start, start + _LOGITS)
                    each = torch.log_softmax(functional.linear(hidden[part], head, bias), dim=-1)
                    total.index_add_(0, rows_of[part], each.gather(1, wanted[part].unsqueeze(1)).squeeze(1))
                out[batch] = total.cpu().numpy()
        return out

    def probabilities(self, prompts: Sequence[str], answers: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """How likely each of two answers is.

        Returns:
            (n, 2) probabilities as if there were no other answer, each row adds up to 1; and (n,) what both together
            have among all that could be written.
        """
        both = []
        for answer in answers:
            # without the end: which of the two it begins to say is the choice
            rows = self.rows(prompts, [answer] * len(prompts))
            both.append(self.log_likelihoods([Row(row.ids[:-1], row.labels[:-1]) for row in rows]))
        log = np.stack(both, axis=1)
        odds = np.exp(log - log.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True), np.exp(log).sum(axis=1)

    def check_numbers(self, answers: Sequence[str], number: tuple[int, int]) -> None:
        """Refuse an LLM whose own tokens of a right answer the number grammar would not let through.

        Raises:
            LLMError: there is one.
        """
        grammar = NumberGrammar(self.tokenizer, *number)
        for answer, ids in zip(answers, self.answer_ids(answers), strict=True):
            whole = [*ids, self.tokenizer.eos_token_id]
            if any(own not in grammar.allowed(whole[:place]) for place, own in enumerate(whole)):
                raise LLMError(f"the LLM's tokenizer writes {answer.strip()} in a way that is not known here")

    @torch.inference_mode()
    def answers(
        self,
        prompts: Sequence[str],
        number: tuple[int, int] | None = None,
        samples: int = 1,
        seed: int = 0,
        batch: int = _BATCH,
        most_tokens: int = _MOST_TOKENS,
    ) -> list[list[str]]:
        """What the LLM answers.

        Args:
            prompts: n
            number: digits before the point, at most, and decimals, of a grammar that lets nothing but numbers through.
            samples: answers drawn to each prompt from the LLM's own probabilities; 1 takes the likeliest tokens.
            seed: of the draws; the process' random numbers stay as they are.
            batch: prompts at a time.
            most_tokens: of an answer that no grammar bounds.

        Returns:
            n lists of texts.
        """
        ids = self.prompt_ids(prompts)
        end = self.tokenizer.eos_token_id
        drawn = (
            {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if samples > 1 else {"do_sample": False}
        )
        config = GenerationConfig(
            max_new_tokens=most_tokens if number is None else sum(number) + 4,
            eos_token_id=end,
            pad_token_id=end,
            num_return_sequences=samples,
            **drawn,
        )
        grammar = NumberGrammar(self.tokenizer, *number) if number is not None else None
        processors = LogitsProcessorList([grammar] if grammar else [])
        generator: Any = self.llm
        devices = [self.llm.device] if self.llm.device.type == "cuda" else []
        texts: list[list[str]] = [[] for _ in prompts]
        with eval_mode(self.llm), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for own in by_length([len(row) for row in ids], max(1, batch // samples)):
                longest = max(len(ids[i]) for i in own)
                # padded to the left, so that every answer begins at the same place
                padded = torch.tensor([[end] * (longest - len(ids[i])) + ids[i] for i in own], device=self.llm.device)
                mask = torch.tensor(
                    [[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in own], device=self.llm.device
                )
                if grammar is not None:
                    grammar.prompt = longest
                out = generator.generate(
                    padded, attention_mask=mask, generation_config=config, logits_processor=processors
                )
                written = self.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
                for place, i in enumerate(own):
                    texts[i] = written[place * samples : (place + 1) * samples]
        return texts
