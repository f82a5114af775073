"""What the LLM reads in stage 1: a corpus as a stream of batches of near-equal length, and what it should answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import torch
from torch.utils.data import IterableDataset

from kflm2.data.corpus import Selection, randomized
from kflm2.featurize.descriptors import DescriptorScaler, descriptor_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK = 8192
"""Molecules that are in memory at once, and among which order is random."""
IGNORE = -100
"""A label that no loss is computed for."""


@dataclass(frozen=True)
class Lesson:
    """One molecule to be read."""

    smiles: str
    seed: int
    """Of its random writing."""
    chance: float = 1.0
    """Drawn from 0 to 1: it is written another way where this is below the share asked for."""


class Lessons(IterableDataset):
    """Molecules of a corpus in training order, epoch after epoch; the same seed gives the same order.

    Order is random within blocks; neighbours are of near-equal length, so that batches cut from it have little padding.
    """

    def __init__(
        self,
        selection: Selection,
        epochs: int,
        step: int,
        seed: int,
        start: int = 0,
    ) -> None:
        """Say what to read.

        Args:
            selection: what of a corpus is taught.
            epochs: passes.
            step: molecules in an optimizer's step, over all processes.
            seed: of the order.
            start: molecules to pass over, where training goes on.
        """
        self.selection, self.epochs, self.step, self.seed, self.start = selection, epochs, step, seed, start

    def __iter__(self) -> Iterator[Lesson]:
        number = 0
        for epoch in range(self.epochs):
            for lesson in self._epoch(epoch):
                if number >= self.start:
                    yield lesson
                number += 1

    def _epoch(self, epoch: int) -> Iterator[Lesson]:
        block: list[str] = []
        blocks = 0
        for smiles in self.selection.taught():
            block.append(smiles)
            if len(block) == _BLOCK:
                yield from self._ordered(block, epoch, blocks)
                block, blocks = [], blocks + 1
        yield from self._ordered(block, epoch, blocks)

    def _ordered(self, block: list[str], epoch: int, number: int) -> Iterator[Lesson]:
        rng = np.random.default_rng([self.seed, epoch, number])
        # by length, but for a jitter that keeps the same molecules from meeting in every epoch
        lengths = np.array([len(smiles) for smiles in block]) * rng.uniform(0.9, 1.1, len(block))
        order = np.argsort(lengths)
        steps = [order[i : i + self.step] for i in range(0, len(order), self.step)]
        # a step that is not full comes last, or the steps after it would not be those of equal length
        full = [own for own in steps if len(own) == self.step]
        for place in [*rng.permutation(len(full)), *range(len(full), len(steps))]:
            for index in steps[place]:
                yield Lesson(block[index], int(rng.integers(1 << 31)), float(rng.random()))


class DescriptorTargets:
    """RDKit's descriptors of SMILES as ranks among the molecules of a corpus, with mean 0 and deviation 1 there."""

    def __init__(self, sample: list[str]) -> None:
        """Learn ranks, means and deviations from a sample of the corpus."""
        self.processes = joblib.cpu_count()
        rows = self._rows(sample)
        self._rank = DescriptorScaler(rows)
        ranks = self._rank(rows)
        # ranks of counts, mostly zero, are far from a normal's mean and deviation
        self._mean, self._std = ranks.mean(axis=0), ranks.std(axis=0) + 1e-6
        self.columns = self._rank.columns
        """Of the descriptors, those that vary."""

    def __call__(self, smiles: list[str]) -> np.ndarray:
        """(n, P) float32"""
        # a value that hardly any molecule of the sample had would outweigh all others
        return ((self._rank(self._rows(smiles)) - self._mean) / self._std).clip(-5, 5)

    def _rows(self, smiles: list[str]) -> np.ndarray:
        pieces = [list(piece) for piece in np.array_split(np.array(smiles, dtype=object), self.processes) if len(piece)]
        work = joblib.Parallel(n_jobs=self.processes)
        return np.concatenate(work(joblib.delayed(descriptor_rows)("rdkit", piece) for piece in pieces))


class Collator:
    """Lessons to tensors: tokens and an end, padded to the right; labels that leave out the padding."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", context: int, randomize: float, targets: DescriptorTargets | None
    ) -> None:
        self.tokenizer, self.context, self.randomize, self.targets = tokenizer, context, randomize, targets

    def __call__(self, lessons: list[Lesson]) -> dict[str, Any]:
        """Tensors of a batch.

        Returns:
            input_ids and labels (B, T); descriptors (B, P) where they are learnt.
        """
        written = [randomized(own.smiles, own.seed) if own.chance < self.randomize else own.smiles for own in lessons]
        batch: dict[str, Any] = tokens_and_labels(self.tokenizer, written, self.context)
        if self.targets is not None:
            # of the molecule, however it is written
            batch["descriptors"] = torch.from_numpy(self.targets([own.smiles for own in lessons]))
        return batch


def tokens_and_labels(tokenizer: "PreTrainedTokenizerBase", smiles: list[str], context: int) -> dict[str, torch.Tensor]:
    """Token ids with the end-of-sequence token, (B, T) padded to the right, and labels that are IGNORE at padding.

    Padding is often the end token itself, so labels go by length, not by token.
    """
    end = [tokenizer.eos_token_id]
    rows = [(own + end)[:context] for own in tokenizer(smiles, add_special_tokens=True)["input_ids"]]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.eos_token_id)
    labels = torch.full_like(ids, IGNORE)
    for place, own in enumerate(rows):
        ids[place, : len(own)] = labels[place, : len(own)] = torch.tensor(own)
    return {"input_ids": ids, "labels": labels}
