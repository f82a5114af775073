"""Training data of stage 1: a corpus as a stream of batches of similar length."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from kflm2.data.corpus import CorpusFilter, randomized
from kflm2.trainers.lora.knowledge import KnowledgeTargets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from kflm2.llm.decoding import tokens_and_labels

_BLOCK = 8192
"""Molecules in memory at once; the order is random within such a block."""


@dataclass(frozen=True)
class Example:
    """One molecule of the stream."""

    smiles: str
    seed: int
    """Seed of its random SMILES."""
    chance: float = 1.0
    """Random number from 0 to 1; the SMILES is randomized if this is below Collator.randomize."""


class CorpusDataset(IterableDataset):
    """Molecules of a corpus in training order, epoch after epoch; the same seed gives the same order.

    The order is random within blocks; neighbours have similar lengths, so that batches have little padding.
    """

    def __init__(
        self,
        corpus_filter: CorpusFilter,
        tokenizer: "PreTrainedTokenizerBase",
        epochs: int,
        step: int,
        seed: int,
        start: int = 0,
    ) -> None:
        """Create the stream.

        Args:
            corpus_filter: selects the SMILES of a corpus to train on.
            tokenizer: the length of a molecule is its number of tokens.
            epochs: number of passes.
            step: molecules per optimizer step, over all processes.
            seed: of the order.
            start: number of molecules to skip, when training is resumed.
        """
        self.corpus_filter, self.tokenizer, self.epochs, self.step = corpus_filter, tokenizer, epochs, step
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[Example]:
        for index, example in enumerate(self._examples()):
            if index >= self.start:
                yield example

    def _examples(self) -> Iterator[Example]:
        leftover: list[str] = []
        for epoch in range(self.epochs):
            block, block_index = leftover, 0
            for smiles in self.corpus_filter.training_smiles():
                block.append(smiles)
                if len(block) >= _BLOCK:
                    block = yield from self._full_steps(block, epoch, block_index)
                    block_index += 1
            # molecules that do not fill a step move to the next epoch; otherwise later steps would be shifted and mix
            # lengths
            leftover = yield from self._full_steps(block, epoch, block_index)
        yield from (Example(smiles, index) for index, smiles in enumerate(leftover))

    def _full_steps(self, block: list[str], epoch: int, block_index: int) -> Generator[Example, None, list[str]]:
        """Yield examples in steps of similar length; return the SMILES that are left over."""
        rng = np.random.default_rng([self.seed, epoch, block_index])
        left_out = rng.permutation(len(block))[: len(block) % self.step]
        smiles = [text for index, text in enumerate(block) if index not in set(left_out.tolist())]
        lengths = np.array([len(ids) for ids in self.tokenizer(smiles)["input_ids"]] if smiles else [])
        # molecules of equal length in random order, so that the steps contain other molecules in every epoch
        order = np.argsort(lengths + rng.uniform(-0.5, 0.5, len(smiles)))
        for step in rng.permutation(len(smiles) // self.step):
            for index in order[step * self.step : (step + 1) * self.step]:
                yield Example(smiles[index], int(rng.integers(1 << 31)), float(rng.random()))
        return [block[index] for index in left_out]


class Collator:
    """Examples to tensors: tokens and an end token, padded on the right; labels that are IGNORE at padding."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", context: int, randomize: float, targets: KnowledgeTargets | None
    ) -> None:
        self.tokenizer, self.context, self.randomize, self.targets = tokenizer, context, randomize, targets

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        """Tensors of a batch.

        Returns:
            input_ids and labels (B, T); knowledge (B, P), NaN where nothing is known, if it is predicted.
        """
        texts = [
            randomized(example.smiles, example.seed) if example.chance < self.randomize else example.smiles
            for example in examples
        ]
        batch: dict[str, Any] = tokens_and_labels(self.tokenizer, texts, self.context)
        if self.targets is not None:
            # from the given SMILES, since the molecule is the same
            batch["knowledge"] = torch.from_numpy(self.targets([example.smiles for example in examples]))
        return batch
