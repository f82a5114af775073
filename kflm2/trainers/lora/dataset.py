"""What the LLM reads in stage 1: a corpus as a stream of batches of near-equal length, and what it should answer."""

import os
import signal
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import torch
from torch.utils.data import IterableDataset

from kflm2.data.corpus import CorpusFilter, randomized
from kflm2.featurize.descriptors import DescriptorScaler, descriptor_rows, rdkit_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
from kflm2.llm.decoding import tokens_and_labels

_BLOCK = 8192
"""Molecules that are in memory at once, and among which order is random."""


@dataclass(frozen=True)
class Example:
    """One molecule to be read."""

    smiles: str
    seed: int
    """Of its random writing."""
    chance: float = 1.0
    """Drawn from 0 to 1: it is written another way where this is below the share asked for."""


class CorpusDataset(IterableDataset):
    """Molecules of a corpus in training order, epoch after epoch; the same seed gives the same order.

    Order is random within blocks; neighbours are of near-equal length, so that batches cut from it have little padding.
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
        """Say what to read.

        Args:
            corpus_filter: what of a corpus is taught.
            tokenizer: a molecule is as long as its tokens are many.
            epochs: passes.
            step: molecules in an optimizer's step, over all processes.
            seed: of the order.
            start: molecules to pass over, where training goes on.
        """
        self.corpus_filter, self.tokenizer, self.epochs, self.step = corpus_filter, tokenizer, epochs, step
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[Example]:
        for number, example in enumerate(self._all()):
            if number >= self.start:
                yield example

    def _all(self) -> Iterator[Example]:
        rest: list[str] = []
        for epoch in range(self.epochs):
            block, blocks = rest, 0
            for smiles in self.corpus_filter.taught():
                block.append(smiles)
                if len(block) >= _BLOCK:
                    block = yield from self._full_steps(block, epoch, blocks)
                    blocks += 1
            # what does not fill a step goes on into the next epoch, or the steps after it would not be those of equal
            # length
            rest = yield from self._full_steps(block, epoch, blocks)
        yield from (Example(smiles, place) for place, smiles in enumerate(rest))

    def _full_steps(self, block: list[str], epoch: int, number: int) -> Generator[Example, None, list[str]]:
        """Lessons in steps of near-equal length; the SMILES that are left over."""
        rng = np.random.default_rng([self.seed, epoch, number])
        left = rng.permutation(len(block))[: len(block) % self.step]
        own = [smiles for place, smiles in enumerate(block) if place not in set(left.tolist())]
        lengths = np.array([len(ids) for ids in self.tokenizer(own)["input_ids"]] if own else [])
        # those of one length in random order, so that other molecules meet in every epoch
        order = np.argsort(lengths + rng.uniform(-0.5, 0.5, len(own)))
        for place in rng.permutation(len(own) // self.step):
            for index in order[place * self.step : (place + 1) * self.step]:
                yield Example(own[index], int(rng.integers(1 << 31)), float(rng.random()))
        return [block[place] for place in left]


class DescriptorTargets:
    """RDKit's descriptors of SMILES as ranks among the molecules of a corpus, with mean 0 and deviation 1 there."""

    def __init__(self, sample: list[str]) -> None:
        """Learn ranks, means and deviations from a sample of the corpus."""
        # the cores are shared with the other processes that train
        self.processes = max(1, joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        rows = self._rows(sample)
        self._rank = DescriptorScaler(rows)
        ranks = self._rank(rows)
        # ranks of counts, mostly zero, are far from a normal's mean and deviation
        self._mean, self._std = ranks.mean(axis=0), ranks.std(axis=0) + 1e-6
        self.columns = self._rank.columns
        """Of the descriptors, those that vary."""
        names = rdkit_names()
        self.names = [names[column] for column in self.columns]

    def __call__(self, smiles: list[str]) -> np.ndarray:
        """(n, P) float32"""
        # a value that hardly any molecule of the sample had would outweigh all others
        return ((self._rank(self._rows(smiles)) - self._mean) / self._std).clip(-5, 5)

    def _rows(self, smiles: list[str]) -> np.ndarray:
        pieces = [list(piece) for piece in np.array_split(np.array(smiles, dtype=object), self.processes) if len(piece)]
        work = joblib.Parallel(n_jobs=self.processes)
        return np.concatenate(work(joblib.delayed(_worker_rows)(os.getpid(), piece) for piece in pieces))


def _worker_rows(parent: int, smiles: list[str]) -> np.ndarray:
    """Descriptors in a process that leaves Ctrl-C to its parent, which then ends with a checkpoint."""
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return descriptor_rows("rdkit", smiles)


class Collator:
    """Lessons to tensors: tokens and an end, padded to the right; labels that leave out the padding."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", context: int, randomize: float, targets: DescriptorTargets | None
    ) -> None:
        self.tokenizer, self.context, self.randomize, self.targets = tokenizer, context, randomize, targets

    def __call__(self, dataset: list[Example]) -> dict[str, Any]:
        """Tensors of a batch.

        Returns:
            input_ids and labels (B, T); descriptors (B, P) where they are learnt.
        """
        written = [randomized(own.smiles, own.seed) if own.chance < self.randomize else own.smiles for own in dataset]
        batch: dict[str, Any] = tokens_and_labels(self.tokenizer, written, self.context)
        if self.targets is not None:
            # of the molecule, however it is written
            batch["descriptors"] = torch.from_numpy(self.targets([own.smiles for own in dataset]))
        return batch
