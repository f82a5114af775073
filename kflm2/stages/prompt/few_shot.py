"""Prompts of a table's molecules, with examples where these are asked for."""

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

_ROOM = 24
"""Tokens of the context that are kept for an answer, and for a molecule's longer writings."""


class PromptBuilder:
    """Prompts of the molecules of a table, each of which fits into the LLM's context."""

    def __init__(
        self,
        config: PromptConfig,
        molecules: Molecules,
        prompt_spec: PromptSpec,
        tokenizer: "PreTrainedTokenizerBase",
        context: int,
    ) -> None:
        self.config, self.prompt_spec, self.tokenizer = config, prompt_spec, tokenizer
        self.room = context - _ROOM
        reasons = {}
        for template in prompt_spec.templates:
            texts = [prompt_spec.ask(smiles, template) for smiles in molecules.smiles]
            for i, ids in enumerate(tokenizer(texts)["input_ids"]):
                if len(ids) > self.room:
                    reasons[i] = (
                        f"its prompt of {len(ids)} tokens is longer than the LLM reads, {context} with the answer"
                    )
        self.molecules = molecules.reject(reasons) if reasons else molecules
        smiles = self.molecules.smiles
        self._structures = [identity(text) for text in smiles] if config.shots else []
        self._prints = fingerprints(smiles) if config.shots and config.shots_by == "nearest" else []
        self._shots: dict[tuple[int, int], list[int]] = {}

    def prompts(
        self, rows: Sequence[int], train: Sequence[int], seed: int, template: str, smiles: list[str] | None = None
    ) -> list[str]:
        """A prompt for each of some molecules.

        Args:
            rows: of the molecules.
            train: rows that examples may be taken from, the same for a seed.
            seed: of the split and of random examples.
            template: name.
            smiles: other writings of the molecules.
        """
        texts = smiles if smiles is not None else [self.molecules.smiles[i] for i in rows]
        prompts = []
        for row, text in zip(rows, texts, strict=True):
            shots = [(self.molecules.smiles[i], float(self.molecules.y_true[i, 0])) for i in self._of(row, train, seed)]
            prompt = self.prompt_spec.ask(text, template, shots)
            while shots and len(self.tokenizer(prompt)["input_ids"]) > self.room:
                shots = shots[1:]  # the least similar one goes first
                prompt = self.prompt_spec.ask(text, template, shots)
            prompts.append(prompt)
        return prompts

    def _of(self, row: int, train: Sequence[int], seed: int) -> list[int]:
        """Rows of a molecule's examples; no writing of the molecule itself is among them."""
        number = self.config.shots
        if not number:
            return []
        if (seed, row) not in self._shots:
            others = [i for i in train if self._structures[i] != self._structures[row]]
            if len(others) < number:
                raise DataError(f"shots is {number}, and training has {len(others)} other molecules with a label")
            if self.config.shots_by == "random":
                chosen = np.random.default_rng([seed, row]).choice(others, number, replace=False).tolist()
            else:
                near = most_similar(self._prints[row], [self._prints[i] for i in others], number)
                # the most similar one last, next to the question
                chosen = [others[i] for i in reversed(near)]
            self._shots[seed, row] = chosen
        return self._shots[seed, row]

    def labelled(self, rows: np.ndarray) -> list[int]:
        """Those of some rows that have a label."""
        return [int(i) for i in rows if not np.isnan(self.molecules.y_true[i, 0])]

    def answers(self, rows: Sequence[int]) -> list[str]:
        """What the molecules should be answered with."""
        return [self.prompt_spec.write(float(self.molecules.y_true[i, 0])) for i in rows]
