"""Prompts for the molecules of a table, with few-shot examples if these are requested."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kflm2.config.prompt import PromptConfig
from kflm2.data.molecules import Molecules
from kflm2.data.similarity import fingerprints, most_similar
from kflm2.data.structures import identity
from kflm2.errors import DataError
from kflm2.stages.prompt.templates import PromptSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RESERVED = 24
"""Tokens of the context reserved for the answer, and for longer SMILES of the same molecule."""


class PromptBuilder:
    """Builds the prompts for the molecules of a table; each fits into the LLM's context.

    Molecules whose prompt without examples does not fit are rejected.
    """

    def __init__(
        self,
        config: PromptConfig,
        molecules: Molecules,
        prompt_spec: PromptSpec,
        tokenizer: "PreTrainedTokenizerBase",
        context: int,
    ) -> None:
        self.config, self.prompt_spec, self.tokenizer = config, prompt_spec, tokenizer
        self.most_tokens = context - _RESERVED
        reasons = {}
        for template in prompt_spec.templates:
            texts = [prompt_spec.prompt(smiles, template) for smiles in molecules.smiles]
            for i, ids in enumerate(tokenizer(texts)["input_ids"]):
                if len(ids) > self.most_tokens:
                    reasons[i] = (
                        f"its prompt of {len(ids)} tokens is longer than the LLM reads, {context} with the answer"
                    )
        self.molecules = molecules.reject(reasons) if reasons else molecules
        smiles = self.molecules.smiles
        self._structures = [identity(text) for text in smiles] if config.shots else []
        self._prints = fingerprints(smiles) if config.shots and config.shots_by == "nearest" else []
        self._example_rows: dict[tuple[int, int], list[int]] = {}

    def prompts(
        self, rows: Sequence[int], train: Sequence[int], seed: int, template: str, smiles: list[str] | None = None
    ) -> list[str]:
        """Prompts for molecules of the table.

        Args:
            rows: of the molecules.
            train: rows that examples may be taken from, the same for a seed.
            seed: of the split and of random examples.
            template: its name.
            smiles: SMILES to use for the molecules; None for those of the table.

        Returns:
            One prompt per row.
        """
        texts = smiles if smiles is not None else [self.molecules.smiles[i] for i in rows]
        prompts = []
        for row, text in zip(rows, texts, strict=True):
            example_rows = self._choose_examples(row, train, seed)
            examples = [(self.molecules.smiles[i], float(self.molecules.y_true[i, 0])) for i in example_rows]
            prompt = self.prompt_spec.prompt(text, template, examples)
            while examples and len(self.tokenizer(prompt)["input_ids"]) > self.most_tokens:
                examples = examples[1:]  # drop the least similar example
                prompt = self.prompt_spec.prompt(text, template, examples)
            prompts.append(prompt)
        return prompts

    def _choose_examples(self, row: int, train: Sequence[int], seed: int) -> list[int]:
        """Rows of a molecule's examples; rows with the same structure as the molecule are never chosen."""
        number = self.config.shots
        if not number:
            return []
        if (seed, row) not in self._example_rows:
            candidates = [i for i in train if self._structures[i] != self._structures[row]]
            if len(candidates) < number:
                raise DataError(f"shots is {number}, and training has {len(candidates)} other molecules with a label")
            if self.config.shots_by == "random":
                chosen = np.random.default_rng([seed, row]).choice(candidates, number, replace=False).tolist()
            else:
                similar = most_similar(self._prints[row], [self._prints[i] for i in candidates], number)
                # the most similar molecule last, next to the prompt's molecule
                chosen = [candidates[i] for i in reversed(similar)]
            self._example_rows[seed, row] = chosen
        return self._example_rows[seed, row]

    def labelled(self, rows: np.ndarray) -> list[int]:
        """The rows that have a label."""
        return [int(i) for i in rows if not np.isnan(self.molecules.y_true[i, 0])]

    def answers(self, rows: Sequence[int]) -> list[str]:
        """Correct answers for the molecules of some rows."""
        return [self.prompt_spec.format_answer(float(self.molecules.y_true[i, 0])) for i in rows]
