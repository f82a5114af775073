"""Hidden states of SMILES from an LLM, pooled or for each token, cached on disk."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kflm2.featurize.cache import FeatureCache, StoredRows
from kflm2.featurize.ragged import Ragged
from kflm2.llm.loading import LoadedLLM, load
from kflm2.progress import Progress

if TYPE_CHECKING:
    import torch
from kflm2.llm.resolve import LLMSource

Pooling = Literal["mean", "tokens"]
TOKEN_BUDGET = {"cpu": 512, "cuda": 16384}
"""Maximum tokens in a forward pass, with padding. A few are enough to use a CPU fully, with little padding."""
_GROUP_BYTES = 256 << 20
"""Size at which a cache shard is written, so that a killed process loses little."""


class Embedder:
    """Hidden states of SMILES from one LLM source; the LLM is loaded only for SMILES that are not in the cache."""

    def __init__(self, source: LLMSource, device: "torch.device", token_budget: int | None = None) -> None:
        self.source = source
        self.device = device
        self.token_budget = token_budget or TOKEN_BUDGET.get(device.type, TOKEN_BUDGET["cpu"])
        self.loaded: LoadedLLM | None = None
        """None until states are computed."""

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which loads the LLM itself."""
        return {**self.__dict__, "loaded": None}

    def embed(self, smiles: list[str], pooling: Pooling, progress: bool = True) -> Ragged | StoredRows:
        """Hidden states of each SMILES, read from the cache or computed.

        Args:
            smiles: n strings, passed to the tokenizer unchanged; repeats are computed once.
            pooling: `mean` over the tokens without padding, or `tokens` for the states of every token.
            progress: show a progress bar while computing.

        Returns:
            n rows of width D times the number of layers, layers side by side in the order of the source. `mean` gives
            rows of length 1, float32, in memory; `tokens` gives rows of length T, float16, on disk. A SMILES longer
            than the LLM's context gives a row of length 0; it is not truncated.
        """
        cache = self._cache(pooling)
        read = cache.get if pooling == "mean" else cache.rows
        return read(smiles, lambda missing: self._compute(missing, pooling, progress))

    def embed_uncached(self, smiles: list[str], pooling: Pooling) -> Ragged:
        """The same rows as `embed`, computed without reading or writing the cache."""
        rows_by_smiles: dict[str, np.ndarray] = {}
        for group, rows in self._compute(list(dict.fromkeys(smiles)), pooling, progress=False):
            rows_by_smiles |= {text: rows.values[rows.ptr[i] : rows.ptr[i + 1]] for i, text in enumerate(group)}
        return Ragged.pack([rows_by_smiles[text] for text in smiles])

    def token_counts(self, smiles: list[str]) -> list[int]:
        """Number of tokens of each SMILES."""
        return [len(ids) for ids in self._load().tokenizer(smiles, add_special_tokens=True)["input_ids"]]

    def fits(self, smiles: list[str]) -> list[bool]:
        """Whether each SMILES fits into the LLM's context; the others have no states."""
        context = self._load().context
        return [0 < count <= context for count in self.token_counts(smiles)]

    def _load(self) -> LoadedLLM:
        if self.loaded is None:
            depth = max(1, *self.source.layers)  # an LLM with no layers returns no states, not even the embeddings
            self.loaded = load(self.source.folder, self.source.adapter, self.device, depth, self.source.precision)
        return self.loaded

    def _cache(self, pooling: Pooling) -> FeatureCache:
        return FeatureCache(
            f"{self.source.name}-{pooling}",
            {
                **self.source.digests,
                "layers": list(self.source.layers),
                "pooling": pooling,
                "precision": self.source.precision,
                # another release may use another tokenizer class for the same files, with other token ids
                "transformers": version("transformers"),
                "tokenizers": version("tokenizers"),
            },
        )

    def _compute(self, smiles: list[str], pooling: Pooling, progress: bool) -> Iterator[tuple[list[str], Ragged]]:
        loaded = self._load()
        ids = loaded.tokenizer(smiles, add_special_tokens=True)["input_ids"]
        fits = [i for i, row in enumerate(ids) if 0 < len(row) <= loaded.context]
        width = loaded.model.config.hidden_size * len(self.source.layers)
        dtype = np.float32 if pooling == "mean" else np.float16

        too_long = [smiles[i] for i in sorted(set(range(len(smiles))) - set(fits))]
        if too_long:
            yield too_long, Ragged(np.zeros((0, width), dtype), np.zeros(len(too_long) + 1, dtype=np.int64))
        group: list[str] = []
        rows: list[np.ndarray] = []
        with Progress(total=len(fits), desc=f"{self.source.name} states", unit="mol", disable=not progress) as bar:
            for batch in self.batches([len(ids[i]) for i in fits]):
                indices = [fits[i] for i in batch]
                for i, states in zip(indices, self._states([ids[i] for i in indices]), strict=True):
                    group.append(smiles[i])
                    row = states.mean(axis=0, keepdims=True) if pooling == "mean" else states
                    # a few columns of an LLM's middle layers can exceed float16's 65,504 and must not become inf
                    rows.append(row.clip(np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype))
                bar.update(len(indices))
                if sum(row.nbytes for row in rows) >= _GROUP_BYTES:
                    yield group, Ragged.pack(rows)
                    group, rows = [], []
        if group:
            yield group, Ragged.pack(rows)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Split rows into batches of similar length, each within the token budget or of one row.

        Longest first, so that a lack of memory shows at once.
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
        """(T, D * layers) float32 states of each row; a batch that does not fit into memory is split in two."""
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
        # Padding is on the right. In a decoder no token attends to later tokens, so no mask is needed, and attention
        # without a mask uses its fast causal kernel; an encoder needs the mask. The states at padding are cut off
        # below, so the token id of padding does not matter.
        padded = torch.zeros(len(ids), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(padded)
        for i, row in enumerate(ids):
            padded[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        attention_mask = None if self.loaded.causal else mask.to(self.device)
        with torch.inference_mode():
            out = self.loaded.model(
                input_ids=padded.to(self.device),
                attention_mask=attention_mask,
                output_hidden_states=True,
                **({"use_cache": False} if self.loaded.causal else {}),
            )
            states = torch.cat([out.hidden_states[layer] for layer in self.source.layers], dim=-1).float().cpu().numpy()
        return [states[i, :length] for i, length in enumerate(lengths)]
