"""What an LLM makes of molecules, before it was taught and after: perplexity, SMILES it writes, a linear probe."""

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rdkit import Chem
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from kflm2.data.corpus import CorpusFilter
from kflm2.data.datasets import locate
from kflm2.data.molecules import parse_smiles, read_table
from kflm2.errors import MoleculeError
from kflm2.files import atomic
from kflm2.llm.decoding import IGNORE, by_length, eval_mode, hidden_states, mean_pool, nll_sum, tokens_and_labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBED = ("SAMPL", "Delaney")
"""Datasets of stage 2 that the probe is held against, where they are here."""
SAMPLES = 200
_LONGEST = 100
"""Tokens of a sample; a drug-like SMILES has 20 to 40."""
_BATCH = 32
_FOLDS = 5
_PENALTIES = np.logspace(-1, 5, 25)


@torch.inference_mode()
def perplexity(llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", smiles: list[str], context: int) -> float:
    """Perplexity per token of SMILES, their ends included: exp of the mean negative log-likelihood."""
    total, count = 0.0, 0
    with eval_mode(llm):
        for rows in by_length([len(text) for text in smiles], _BATCH):
            batch = tokens_and_labels(tokenizer, [smiles[i] for i in rows], context)
            ids, labels = (batch[name].to(llm.device) for name in ("input_ids", "labels"))
            summed, own = nll_sum(llm, hidden_states(llm, ids, labels != IGNORE), labels)
            total += summed.item()
            count += int(own)
    return math.exp(total / count)


@torch.inference_mode()
def sample(
    llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", smiles: list[str], number: int, seed: int
) -> list[str]:
    """What the LLM writes when it is let: each token drawn from its own probabilities, unchanged, until the end.

    Args:
        llm: with vocabulary head.
        tokenizer: its own.
        smiles: of the corpus; the first token is taken from these in turn, for nothing comes before it.
        number: of samples.
        seed: of the draws; the process' random numbers stay as they are.

    Returns:
        Texts; one that does not end within 100 tokens is cut there.
    """
    from transformers import GenerationConfig

    opening = len(tokenizer("")["input_ids"]) + 1
    ids = [tokenizer(smiles[i % len(smiles)])["input_ids"][:opening] for i in range(number)]
    end = tokenizer.eos_token_id
    drawn = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=_LONGEST, eos_token_id=end, pad_token_id=end
    )
    texts: list[str] = []
    generator: Any = llm
    devices = [llm.device] if llm.device.type == "cuda" else []
    with (
        eval_mode(llm),
        torch.random.fork_rng(devices),
        tqdm(total=number, desc="sampling", unit="mol", leave=False) as bar,
    ):
        torch.manual_seed(seed)
        for start in range(0, number, 2 * _BATCH):
            rows = torch.tensor(ids[start : start + 2 * _BATCH], device=llm.device)
            out = generator.generate(rows, attention_mask=torch.ones_like(rows), generation_config=drawn)
            texts += tokenizer.batch_decode(out, skip_special_tokens=True)
            bar.update(len(rows))
    return texts


def canonical(text: str) -> str | None:
    """RDKit's canonical SMILES; None where the text is none."""
    try:
        return str(Chem.MolToSmiles(parse_smiles(text)))
    except MoleculeError:
        return None


@dataclass(frozen=True)
class Sampled:
    """Shares of sampled SMILES, as the MOSES benchmark counts them (Polykovskiy et al., Front. Pharmacol. 2020)."""

    number: int
    valid: float
    """Of all: what RDKit reads."""
    unique: float
    """Of the valid: different molecules."""
    novel: float
    """Of the unique: those that were not taught."""

    @staticmethod
    def of(texts: list[str], known: set[str]) -> "Sampled":
        """Count texts; see taught_among."""
        valid = [own for own in map(canonical, texts) if own is not None]
        unique = set(valid)
        return Sampled(
            len(texts),
            len(valid) / len(texts),
            len(unique) / len(valid) if valid else 0.0,
            len(unique - known) / len(unique) if unique else 0.0,
        )


def taught_among(texts: Iterable[str], taught: Iterable[str]) -> set[str]:
    """Canonical SMILES of those texts that were taught; what was taught may be larger than memory, and is read once."""
    asked = {own for own in map(canonical, texts) if own is not None}
    return {own for own in map(canonical, taught if asked else ()) if own in asked}


def probe(llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", context: int) -> dict[str, float]:
    """Error of a ridge regression from the mean state of the last layer to a property, for each dataset probed.

    Returns:
        RMSE in the dataset's unit over the predictions of five folds; the penalty is chosen within the training
        folds. Datasets that are not here are left out.
    """
    errors = {}
    for name in PROBED:
        dataset, missing = locate(name)
        if missing:
            continue
        molecules = read_table(dataset)
        x = mean_states(llm, tokenizer, molecules.smiles, context, f"probe {name}")
        y = molecules.y_true[:, 0]
        ridge = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
        y_pred = cross_val_predict(ridge, x, y, cv=KFold(_FOLDS, shuffle=True, random_state=0))
        errors[name] = float(np.sqrt(np.mean((y_pred - y) ** 2)))
    return errors


@torch.inference_mode()
def mean_states(
    llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", smiles: list[str], context: int, title: str = "states"
) -> np.ndarray:
    """(n, D) float32: mean over a SMILES' own tokens of the last layer's states before the final norm."""
    out = np.zeros((len(smiles), llm.config.hidden_size), dtype=np.float32)
    with eval_mode(llm), tqdm(total=len(smiles), desc=title, unit="mol", leave=False) as bar:
        for rows in by_length([len(text) for text in smiles], _BATCH):
            batch = tokens_and_labels(tokenizer, [smiles[i] for i in rows], context)
            ids, labels = (batch[name].to(llm.device) for name in ("input_ids", "labels"))
            out[rows] = mean_pool(hidden_states(llm, ids, labels != IGNORE), labels).cpu().numpy()
            bar.update(len(rows))
    return out


class LLMEvaluation:
    """An LLM held against the same molecules before it was taught and after."""

    def __init__(
        self,
        corpus_filter: CorpusFilter,
        held_out: list[str],
        taught: list[str],
        tokenizer: "PreTrainedTokenizerBase",
        context: int,
        seed: int,
    ) -> None:
        """Say what it is judged on.

        Args:
            corpus_filter: what of the corpus is taught.
            held_out: SMILES that are not.
            taught: some that are.
            tokenizer: the LLM's own.
            context: tokens that it reads at once.
            seed: of the samples.
        """
        self.corpus_filter, self.held_out, self.taught = corpus_filter, held_out, taught
        self.tokenizer, self.context, self.seed = tokenizer, context, seed
        self._texts: list[list[str]] = []
        self._known: set[str] = set()

    def written(self, llm: "PreTrainedModel") -> dict[str, Any]:
        """Perplexity of the molecules held out, and what it writes by itself."""
        self._texts.append(sample(llm, self.tokenizer, self.taught, SAMPLES, self.seed))
        figure = perplexity(llm, self.tokenizer, self.held_out, self.context) if self.held_out else None
        return {"perplexity": figure}

    def probed(self, llm: "PreTrainedModel") -> dict[str, Any]:
        """What a linear model can read from its states."""
        return {"probe": probe(llm, self.tokenizer, self.context)}

    def compare(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """Both sets of figures; the corpus is read once more, to tell which of the molecules written are new."""
        texts = [text for own in self._texts for text in own]
        self._known = taught_among(texts, self.corpus_filter.taught())
        for figures, own in zip((before, after), self._texts, strict=True):
            figures["sampled"] = asdict(Sampled.of(own, self._known))
        return {"held_out": len(self.held_out), "before": before, "after": after}

    def write_samples(self, path: Path) -> None:
        """Everything that was written, as it was written."""
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["when", "text", "smiles", "taught"])
            for when, texts in zip(("before", "after"), self._texts, strict=True):
                for text in texts:
                    smiles = canonical(text)
                    rows.writerow([when, text, smiles or "", smiles in self._known if smiles else ""])
