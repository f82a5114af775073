"""Hidden states of SMILES: what the LLM makes of a molecule, pooled or token by token, cached on disk."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np
from tqdm import tqdm

from kflm2.featurize.cache import FeatureCache, StoredRows
from kflm2.featurize.ragged import Ragged
from kflm2.llm.loading import LoadedLLM, load

if TYPE_CHECKING:
    import torch
from kflm2.llm.resolve import LLMSource

Pooling = Literal["mean", "tokens"]
TOKEN_BUDGET = {"cpu": 512, "cuda": 16384}
"""Tokens in a forward pass, padding included. A CPU is busy with few, and few means little padding."""
_GROUP_BYTES = 256 << 20
"""Size of a cache shard at which it is written, so that a killed run loses little."""


class Embedder:
    """States of SMILES from one source, read from the cache; the LLM is loaded only for what is not there."""

    def __init__(self, source: LLMSource, device: "torch.device", token_budget: int | None = None) -> None:
        self.source = source
        self.device = device
        self.token_budget = token_budget or TOKEN_BUDGET.get(device.type, TOKEN_BUDGET["cpu"])
        self.loaded: LoadedLLM | None = None
        """The LLM, once something was computed."""

    def embed(self, smiles: list[str], pooling: Pooling, progress: bool = True) -> Ragged | StoredRows:
        """States of each SMILES.

        Args:
            smiles: n strings, as they are given to the tokenizer; repeats are computed once.
            pooling: `mean` over the real tokens, or `tokens` for all of them.
            progress: show a bar while computing.

        Returns:
            n rows of width D times the number of layers, layers side by side in the order asked for. `mean` gives rows
            of length 1, float32, in memory; `tokens` rows of length T, float16, left on disk. A SMILES longer than the
            LLM's context gives a row of length 0: nothing is truncated.
        """
        cache = self._cache(pooling)
        read = cache.get if pooling == "mean" else cache.rows
        return read(smiles, lambda missing: self._compute(missing, pooling, progress))

    def compute(self, smiles: list[str], pooling: Pooling) -> Ragged:
        """The same rows as `embed` gives, computed here and now; nothing is kept."""
        found: dict[str, np.ndarray] = {}
        for group, rows in self._compute(list(dict.fromkeys(smiles)), pooling, progress=False):
            found |= {text: rows.values[rows.ptr[i] : rows.ptr[i + 1]] for i, text in enumerate(group)}
        return Ragged.pack([found[text] for text in smiles])

    def _cache(self, pooling: Pooling) -> FeatureCache:
        from kflm2.device import llm_dtype

        return FeatureCache(
            f"{self.source.name}-{pooling}",
            {
                **self.source.digests,
                "layers": list(self.source.layers),
                "pooling": pooling,
                "dtype": str(llm_dtype(self.device)),
                # another release may choose another tokenizer class for the same files, and other token ids with it
                "transformers": version("transformers"),
                "tokenizers": version("tokenizers"),
            },
        )

    def _compute(self, smiles: list[str], pooling: Pooling, progress: bool) -> Iterator[tuple[list[str], Ragged]]:
        if self.loaded is None:
            keep = max(1, *self.source.layers)  # an LLM of no layers at all gives no states, not even the embeddings
            self.loaded = load(self.source.folder, self.source.adapter, self.device, keep)
        ids = self.loaded.tokenizer(smiles, add_special_tokens=True)["input_ids"]
        fits = [i for i, row in enumerate(ids) if 0 < len(row) <= self.loaded.context]
        width = self.loaded.model.config.hidden_size * len(self.source.layers)
        kind = np.float32 if pooling == "mean" else np.float16

        too_long = [smiles[i] for i in sorted(set(range(len(smiles))) - set(fits))]
        if too_long:
            yield too_long, Ragged(np.zeros((0, width), kind), np.zeros(len(too_long) + 1, dtype=np.int64))
        group: list[str] = []
        rows: list[np.ndarray] = []
        with tqdm(total=len(fits), desc=f"{self.source.name} states", unit="mol", disable=not progress) as bar:
            for batch in self.batches([len(ids[i]) for i in fits]):
                chosen = [fits[i] for i in batch]
                for i, states in zip(chosen, self._states([ids[i] for i in chosen]), strict=True):
                    group.append(smiles[i])
                    own = states.mean(axis=0, keepdims=True) if pooling == "mean" else states
                    # a few columns of an LLM's inner states can be beyond float16's 65,504, and must not become inf
                    rows.append(own.clip(np.finfo(kind).min, np.finfo(kind).max).astype(kind))
                bar.update(len(chosen))
                if sum(row.nbytes for row in rows) >= _GROUP_BYTES:
                    yield group, Ragged.pack(rows)
                    group, rows = [], []
        if group:
            yield group, Ragged.pack(rows)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Cut rows into batches of near-equal length, each within the token budget or of one row.

        Longest first, so that running out of memory shows at once.
        """
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self.token_budget:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _states(self, ids: list[list[int]]) -> list[np.ndarray]:
        """(T, D * layers) float32 states of each row; a batch that does not fit into memory is halved."""
        import torch

        try:
            return self._forward(ids)
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
        torch.cuda.empty_cache()
        self.token_budget = max(1, self.token_budget // 2)
        half = len(ids) // 2
        return self._states(ids[:half]) + self._states(ids[half:])

    def _forward(self, ids: list[list[int]]) -> list[np.ndarray]:
        import torch

        assert self.loaded is not None
        lengths = [len(row) for row in ids]
        # Right padding. A decoder never looks right, so its real tokens need no mask, and without one attention takes
        # its fast causal path; an encoder needs the mask. What padding is does not matter, it is cut off below.
        padded = torch.zeros(len(ids), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(padded)
        for row, own in enumerate(ids):
            padded[row, : len(own)] = torch.tensor(own)
            mask[row, : len(own)] = 1
        attention = None if self.loaded.causal else mask.to(self.device)
        with torch.inference_mode():
            out = self.loaded.model(
                input_ids=padded.to(self.device),
                attention_mask=attention,
                output_hidden_states=True,
                **({"use_cache": False} if self.loaded.causal else {}),
            )
            states = torch.cat([out.hidden_states[layer] for layer in self.source.layers], dim=-1).float().cpu().numpy()
        return [states[row, :length] for row, length in enumerate(lengths)]
