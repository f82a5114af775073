"""Prompting of an LLM in batches: answers and their probabilities."""

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
from kflm2.llm.decoding import IGNORE, by_length, eval_mode, hidden_states, scaled_logits
from kflm2.llm.grammar import NumberGrammar

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BATCH = 64
"""Prompts in a batch."""
_LOGIT_TOKENS = 512
"""Tokens whose logits over the whole vocabulary are in memory at once."""
_MAX_ANSWER_TOKENS = 16
"""Maximum tokens of an answer without grammar."""


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt with its answer."""

    ids: list[int]
    labels: list[int]
    """The same ids, IGNORE where a token has no loss."""


class Prompter:
    """An LLM with its tokenizer, for prompting."""

    def __init__(self, llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        self.llm, self.tokenizer = llm, tokenizer

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, without end token, so that an answer can follow."""
        return self.tokenizer(list(prompts), add_special_tokens=True)["input_ids"]

    def answer_ids(self, answers: Sequence[str]) -> list[list[int]]:
        """Token ids of answers, each of which begins with a space.

        Answers are tokenized separately from the prompt, so that training and generation use the same tokens; and after
        a letter, since some tokenizers treat the beginning of a text differently.
        """
        (letter,) = self.tokenizer(["x"], add_special_tokens=False)["input_ids"]
        rows = self.tokenizer([f"x{answer}" for answer in answers], add_special_tokens=False)["input_ids"]
        assert all(ids[: len(letter)] == letter for ids in rows)
        return [ids[len(letter) :] for ids in rows]

    def rows(self, prompts: Sequence[str], answers: Sequence[str], whole_text: bool = False) -> list[Row]:
        """Training rows: prompts with answers and the end token.

        Args:
            prompts: n texts.
            answers: n texts.
            whole_text: the prompts' tokens have a loss too.
        """
        rows = []
        for prompt, answer in zip(self.prompt_ids(prompts), self.answer_ids(answers), strict=True):
            ending = [*answer, self.tokenizer.eos_token_id]
            rows.append(Row(prompt + ending, (prompt if whole_text else [IGNORE] * len(prompt)) + ending))
        return rows

    def collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Tensors of a batch, padded on the right: input_ids, labels (B, T), and attention_mask (B, T) bool."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.eos_token_id)
        labels = torch.full_like(ids, IGNORE)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for i, row in enumerate(rows):
            length = len(row.ids)
            ids[i, :length], labels[i, :length], mask[i, :length] = (
                torch.tensor(row.ids),
                torch.tensor(row.labels),
                True,
            )
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    @torch.inference_mode()
    def log_likelihoods(self, rows: Sequence[Row]) -> np.ndarray:
        """(n,) log-likelihood of each row, summed over its labels."""
        out = np.zeros(len(rows))
        decoder: Any = self.llm
        # in float32: the rounding of bfloat16 is as large as the difference of two answers
        head, bias = decoder.lm_head.weight.float(), decoder.lm_head.bias
        with eval_mode(self.llm):
            for indices in by_length([len(row.ids) for row in rows], _BATCH):
                tensors = self.collate([rows[i] for i in indices])
                batch = {name: tensor.to(self.llm.device) for name, tensor in tensors.items()}
                states = hidden_states(self.llm, batch["input_ids"], batch["attention_mask"])
                labels = batch["labels"][:, 1:]
                mask = labels != IGNORE
                row_index, token_ids = mask.nonzero()[:, 0], labels[mask]
                total = torch.zeros(len(indices), dtype=torch.float32, device=token_ids.device)
                hidden = decoder.model.norm(states[:, :-1][mask]).float()
                for start in range(0, len(token_ids), _LOGIT_TOKENS):
                    part = slice(start, start + _LOGIT_TOKENS)
                    logits = scaled_logits(self.llm, functional.linear(hidden[part], head, bias))
                    log_probs = torch.log_softmax(logits, dim=-1)
                    total.index_add_(0, row_index[part], log_probs.gather(1, token_ids[part].unsqueeze(1)).squeeze(1))
                out[indices] = total.cpu().numpy()
        return out

    def probabilities(self, prompts: Sequence[str], answers: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of two answers.

        Returns:
            (n, 2) probabilities given that the answer is one of the two, so each row sums to 1; and (n,) the total
            probability of the two among all texts the LLM could generate.
        """
        columns = []
        for answer in answers:
            # without the end token: a longer text that begins with the answer counts as this answer
            rows = self.rows(prompts, [answer] * len(prompts))
            columns.append(self.log_likelihoods([Row(row.ids[:-1], row.labels[:-1]) for row in rows]))
        log_probs = np.stack(columns, axis=1)
        weights = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True), np.exp(log_probs).sum(axis=1)

    def check_numbers(self, answers: Sequence[str], number_format: tuple[int, int]) -> None:
        """Check that the number grammar allows the tokens of correct answers.

        Args:
            answers: texts of numbers.
            number_format: maximum number of digits before the point, and number of decimals.

        Raises:
            LLMError: the grammar does not allow the tokens of an answer.
        """
        grammar = NumberGrammar(self.tokenizer, *number_format)
        for answer, answer_ids in zip(answers, self.answer_ids(answers), strict=True):
            ids = [*answer_ids, self.tokenizer.eos_token_id]
            if any(token not in grammar.allowed(ids[:i]) for i, token in enumerate(ids)):
                raise LLMError(f"the LLM's tokenizer splits {answer.strip()} into tokens that are not supported")

    @torch.inference_mode()
    def answers(
        self,
        prompts: Sequence[str],
        number_format: tuple[int, int] | None = None,
        samples: int = 1,
        seed: int = 0,
        batch: int = _BATCH,
        most_tokens: int = _MAX_ANSWER_TOKENS,
    ) -> list[list[str]]:
        """Generate answers.

        Args:
            prompts: n texts.
            number_format: maximum number of digits before the point, and number of decimals; with it, a grammar allows
                only numbers.
            samples: answers per prompt, sampled from the LLM's probabilities; 1 takes the most likely token each time.
            seed: of the sampling; the global random state is not changed.
            batch: number of texts generated at once.
            most_tokens: maximum tokens of an answer without grammar.

        Returns:
            n lists of texts.
        """
        ids = self.prompt_ids(prompts)
        end = self.tokenizer.eos_token_id
        sampling = (
            {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if samples > 1 else {"do_sample": False}
        )
        config = GenerationConfig(
            max_new_tokens=most_tokens if number_format is None else sum(number_format) + 4,
            eos_token_id=end,
            pad_token_id=end,
            num_return_sequences=samples,
            **sampling,
        )
        grammar = NumberGrammar(self.tokenizer, *number_format) if number_format is not None else None
        processors = LogitsProcessorList([grammar] if grammar else [])
        generator: Any = self.llm
        devices = [self.llm.device] if self.llm.device.type == "cuda" else []
        texts: list[list[str]] = [[] for _ in prompts]
        with eval_mode(self.llm), torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            for indices in by_length([len(row) for row in ids], max(1, batch // samples)):
                longest = max(len(ids[i]) for i in indices)
                # padded on the left, so that every answer begins at the same position
                padded = torch.tensor(
                    [[end] * (longest - len(ids[i])) + ids[i] for i in indices], device=self.llm.device
                )
                mask = torch.tensor(
                    [[0] * (longest - len(ids[i])) + [1] * len(ids[i]) for i in indices], device=self.llm.device
                )
                if grammar is not None:
                    grammar.prompt_length = longest
                out = generator.generate(
                    padded, attention_mask=mask, generation_config=config, logits_processor=processors
                )
                answers = self.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
                for k, i in enumerate(indices):
                    texts[i] = answers[k * samples : (k + 1) * samples]
        return texts
