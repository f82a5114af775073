"""Evaluation of an LLM before and after fine-tuning: perplexity, sampled SMILES, a linear probe of its states."""

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
"""Datasets of stage 2 that the probe predicts, if their files are present."""
SAMPLES = 200
_LONGEST = 100
"""Maximum tokens of a sample; a drug-like SMILES has 20 to 40."""
_BATCH = 32
_FOLDS = 5
_PENALTIES = np.logspace(-1, 5, 25)


@torch.inference_mode()
def perplexity(llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", smiles: list[str], context: int) -> float:
    """Perplexity per token of SMILES, end tokens included: exp of the mean negative log-likelihood."""
    nll, count = 0.0, 0
    with eval_mode(llm):
        for rows in by_length([len(text) for text in smiles], _BATCH):
            batch = tokens_and_labels(tokenizer, [smiles[i] for i in rows], context)
            ids, labels = (batch[name].to(llm.device) for name in ("input_ids", "labels"))
            batch_nll, batch_count = nll_sum(llm, hidden_states(llm, ids, labels != IGNORE), labels)
            nll += batch_nll.item()
            count += int(batch_count)
    return math.exp(nll / count)


@torch.inference_mode()
def sample(
    llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", smiles: list[str], number: int, seed: int
) -> list[str]:
    """Texts sampled from the LLM at temperature 1, without top-k or top-p, until the end token.

    Args:
        llm: with vocabulary head.
        tokenizer: of the LLM.
        smiles: of the corpus; the first token of each sample is taken from these in turn, since the LLM needs a
            prompt.
        number: of samples.
        seed: of the sampling; the state of the global random generators does not change.

    Returns:
        The texts; a sample that does not end within 100 tokens is cut there.
    """
    from transformers import GenerationConfig

    prompt_length = len(tokenizer("")["input_ids"]) + 1
    prompts = [tokenizer(smiles[i % len(smiles)])["input_ids"][:prompt_length] for i in range(number)]
    end = tokenizer.eos_token_id
    config = GenerationConfig(
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
            batch = torch.tensor(prompts[start : start + 2 * _BATCH], device=llm.device)
            ids = generator.generate(batch, attention_mask=torch.ones_like(batch), generation_config=config)
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
            bar.update(len(batch))
    return texts


def canonical(text: str) -> str | None:
    """RDKit's canonical SMILES; None if the text is not a valid SMILES."""
    try:
        return str(Chem.MolToSmiles(parse_smiles(text)))
    except MoleculeError:
        return None


@dataclass(frozen=True)
class SampleStatistics:
    """Shares of sampled SMILES, as defined by the MOSES benchmark (Polykovskiy et al., Front. Pharmacol. 2020)."""

    number: int
    valid: float
    """Of all samples: those that RDKit can read."""
    unique: float
    """Of the valid samples: distinct molecules."""
    novel: float
    """Of the unique molecules: those that are not in the training SMILES."""

    @staticmethod
    def of(texts: list[str], known: set[str]) -> "SampleStatistics":
        """Statistics of sampled texts.

        Args:
            texts: n samples.
            known: canonical SMILES of samples that are in the training SMILES; see trained_among.
        """
        valid = [smiles for smiles in map(canonical, texts) if smiles is not None]
        unique = set(valid)
        return SampleStatistics(
            len(texts),
            len(valid) / len(texts),
            len(unique) / len(valid) if valid else 0.0,
            len(unique - known) / len(unique) if unique else 0.0,
        )


def trained_among(texts: Iterable[str], training: Iterable[str]) -> set[str]:
    """Canonical SMILES of the texts that are among the training SMILES, by molecule.

    Args:
        texts: samples.
        training: training SMILES; read once, so that they may be larger than memory.
    """
    samples = {smiles for smiles in map(canonical, texts) if smiles is not None}
    return {smiles for smiles in map(canonical, training if samples else ()) if smiles in samples}


def probe(llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", context: int) -> dict[str, float]:
    """Error of a ridge regression of a property on the mean hidden state of the last layer, for each probed dataset.

    Returns:
        Dataset -> RMSE in its unit, over the predictions of a five-fold cross-validation; the penalty is chosen within
        the training folds. Datasets whose files are missing are left out.
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
    """(n, D) float32 mean hidden states of the last layer before the final norm, over a SMILES' tokens."""
    means = np.zeros((len(smiles), llm.config.hidden_size), dtype=np.float32)
    with eval_mode(llm), tqdm(total=len(smiles), desc=title, unit="mol", leave=False) as bar:
        for rows in by_length([len(text) for text in smiles], _BATCH):
            batch = tokens_and_labels(tokenizer, [smiles[i] for i in rows], context)
            ids, labels = (batch[name].to(llm.device) for name in ("input_ids", "labels"))
            means[rows] = mean_pool(hidden_states(llm, ids, labels != IGNORE), labels).cpu().numpy()
            bar.update(len(rows))
    return means


class LLMEvaluation:
    """Evaluation of an LLM before and after fine-tuning, with the same molecules."""

    def __init__(
        self,
        corpus_filter: CorpusFilter,
        held_out: list[str],
        training_sample: list[str],
        tokenizer: "PreTrainedTokenizerBase",
        context: int,
        seed: int,
    ) -> None:
        """Set the molecules to evaluate on.

        Args:
            corpus_filter: gives the training SMILES.
            held_out: SMILES held out of training, for the perplexity.
            training_sample: some training SMILES, for the first tokens of the samples.
            tokenizer: of the LLM.
            context: maximum tokens of the LLM's input.
            seed: of the samples.
        """
        self.corpus_filter, self.held_out, self.training_sample = corpus_filter, held_out, training_sample
        self.tokenizer, self.context, self.seed = tokenizer, context, seed
        self._texts: list[list[str]] = []
        self._known: set[str] = set()

    def evaluate_text(self, llm: "PreTrainedModel") -> dict[str, Any]:
        """Perplexity of the held-out molecules, None without any; texts are sampled too, for `compare`."""
        self._texts.append(sample(llm, self.tokenizer, self.training_sample, SAMPLES, self.seed))
        value = perplexity(llm, self.tokenizer, self.held_out, self.context) if self.held_out else None
        return {"perplexity": value}

    def evaluate_probe(self, llm: "PreTrainedModel") -> dict[str, Any]:
        """Errors of the linear probe of the LLM's hidden states; see probe."""
        return {"probe": probe(llm, self.tokenizer, self.context)}

    def compare(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """The metrics before and after, with the statistics of the samples added to both.

        The corpus is read once more, to count the samples that are not in the training SMILES.
        """
        all_texts = [text for texts in self._texts for text in texts]
        self._known = trained_among(all_texts, self.corpus_filter.training_smiles())
        for metrics, texts in zip((before, after), self._texts, strict=True):
            metrics["sampled"] = asdict(SampleStatistics.of(texts, self._known))
        return {"held_out": len(self.held_out), "before": before, "after": after}

    def write_samples(self, path: Path) -> None:
        """Write all sampled texts, before and after, as CSV."""
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["when", "text", "smiles", "taught"])
            for when, texts in zip(("before", "after"), self._texts, strict=True):
                for text in texts:
                    smiles = canonical(text)
                    writer.writerow([when, text, smiles or "", smiles in self._known if smiles else ""])
