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
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kflm2.data.corpus import CorpusFilter, is_held_out, randomized
from kflm2.data.datasets import locate
from kflm2.data.molecules import parse_smiles
from kflm2.data.reading import read_table
from kflm2.errors import MoleculeError
from kflm2.files import atomic
from kflm2.llm.decoding import IGNORE, by_length, eval_mode, hidden_states, mean_pool, nll_sum, tokens_and_labels
from kflm2.progress import Progress
from kflm2.trainers.lora.knowledge import KnowledgeTargets
from kflm2.trainers.lora.model import LoRAModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBED = ("SAMPL", "Delaney")
"""Datasets of stage 2 that the probe predicts, if their files are present."""
_LONGEST = 100
"""Maximum tokens of a sample; a drug-like SMILES has 20 to 40."""
_BATCH = 32
_SAMPLED = 256
"""Samples drawn at once: a step of one token waits for all threads, so the fewer steps the better on a busy machine."""
_MOST_KNOWN = 2000
"""Held-out molecules of a table that are evaluated at most."""
_FEWEST = 10
"""Values of which an R2 is given."""
_FOLDS = 5
_PENALTIES = np.logspace(-1, 5, 25)


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood of SMILES, in two units.

    What a SMILES begins with is not predicted: its first token, or the token that marks the begin where an LLM has one.
    The end is predicted, and counts as one token and as one character.
    """

    per_token: float
    per_character: float
    """Comparable between LLMs whose tokens differ in length."""


@torch.inference_mode()
def perplexity(
    llm: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", smiles: list[str], context: int
) -> Perplexity:
    """Perplexity of an LLM on SMILES.

    Args:
        llm: with vocabulary head.
        tokenizer: of the LLM.
        smiles: not longer than the context.
        context: maximum tokens of the LLM's input.
    """
    nll, tokens, characters = 0.0, 0, 0
    with eval_mode(llm):
        for rows in by_length([len(text) for text in smiles], _BATCH):
            batch = tokens_and_labels(tokenizer, [smiles[i] for i in rows], context)
            ids, labels = (batch[name].to(llm.device) for name in ("input_ids", "labels"))
            batch_nll, batch_tokens = nll_sum(llm, hidden_states(llm, ids, labels != IGNORE), labels)
            nll += batch_nll.item()
            tokens += int(batch_tokens)
            # padding and the end are special tokens
            predicted = tokenizer.batch_decode(ids[:, 1:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            characters += sum(len(text) + 1 for text in predicted)
    return Perplexity(math.exp(nll / tokens), math.exp(nll / characters))


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
    from transformers import GenerationConfig, StoppingCriteriaList

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
        Progress(total=math.ceil(number / _SAMPLED) * _LONGEST, desc="sampling", unit="token", leave=False) as bar,
    ):
        torch.manual_seed(seed)

        def step(ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
            bar.update()
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)  # this criterion ends no sample

        for start in range(0, number, _SAMPLED):
            batch = torch.tensor(prompts[start : start + _SAMPLED], device=llm.device)
            ids = generator.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([step]),
            )
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
            bar.update(-bar.n % _LONGEST)
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
    with eval_mode(llm), Progress(total=len(smiles), desc=title, unit="mol", leave=False) as bar:
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
        samples: int,
    ) -> None:
        """Set the molecules to evaluate on.

        Args:
            corpus_filter: gives the training SMILES.
            held_out: SMILES held out of training, for the perplexity.
            training_sample: some training SMILES, for the first tokens of the samples.
            tokenizer: of the LLM.
            context: maximum tokens of the LLM's input.
            seed: of the samples, and of the random SMILES.
            samples: number of SMILES to sample; 0 for none.
        """
        self.corpus_filter, self.held_out, self.training_sample = corpus_filter, held_out, training_sample
        self.tokenizer, self.context, self.seed, self.samples = tokenizer, context, seed, samples
        self._texts: list[list[str]] = []
        self._known: set[str] = set()

    def evaluate_text(self, llm: "PreTrainedModel") -> dict[str, Any]:
        """Perplexity of the held-out molecules, as the corpus has them and as random SMILES; None without any.

        Texts are sampled too, for `compare`.
        """
        if self.samples:
            self._texts.append(sample(llm, self.tokenizer, self.training_sample, self.samples, self.seed))
        if not self.held_out:
            return {"perplexity": None, "perplexity_of_random_smiles": None}
        random_smiles = [randomized(text, self.seed) for text in self.held_out]
        # a token has at least one character; begin and end are tokens too
        pairs = zip(random_smiles, self.held_out, strict=True)
        fitting = [new if len(new) <= self.context - 2 else old for new, old in pairs]
        return {
            "perplexity": asdict(perplexity(llm, self.tokenizer, self.held_out, self.context)),
            "perplexity_of_random_smiles": asdict(perplexity(llm, self.tokenizer, fitting, self.context)),
        }

    def evaluate_probe(self, llm: "PreTrainedModel") -> dict[str, Any]:
        """Errors of the linear probe of the LLM's hidden states; see probe."""
        return {"probe": probe(llm, self.tokenizer, self.context)}

    def evaluate_knowledge(self, model: LoRAModel, targets: KnowledgeTargets, share: float) -> dict[str, Any]:
        """How much of each column the head reads off molecules that were held out.

        Args:
            model: fine-tuned.
            targets: what it learnt.
            share: of the molecules that were held out of training.

        Returns:
            Source -> column -> R2 of the ranks over the molecules where the column is known; None for fewer than ten.
        """
        found: dict[str, Any] = {}
        for source in targets.sources:
            smiles = self.held_out
            if source.table is not None:
                # of the corpus the SMILES decides as it is written
                pairs = zip(source.table.smiles, source.table.written, strict=True)
                smiles = [text for text, own in pairs if is_held_out(text, share) and is_held_out(own, share)]
                smiles = smiles[:_MOST_KNOWN]
            if not smiles:
                found[source.name] = dict.fromkeys(source.names)
                continue
            states = mean_states(model.llm, self.tokenizer, smiles, self.context, source.name)
            y_pred, y_true = model.predict_knowledge(states)[:, source.columns], source.values(smiles)
            found[source.name] = {name: _r2(y_true[:, k], y_pred[:, k]) for k, name in enumerate(source.names)}
        return found

    def compare(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """The metrics before and after, with the statistics of the samples added to both.

        The corpus is read once more, to count the samples that are not in the training SMILES.
        """
        all_texts = [text for texts in self._texts for text in texts]
        self._known = trained_among(all_texts, self.corpus_filter.training_smiles() if all_texts else ())
        for metrics, texts in zip((before, after), self._texts, strict=False):
            metrics["sampled"] = asdict(SampleStatistics.of(texts, self._known))
        return {"held_out": len(self.held_out), "before": before, "after": after}

    def write_samples(self, path: Path) -> None:
        """Write all sampled texts, before and after, as CSV."""
        with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["when", "text", "smiles", "taught"])
            for when, texts in zip(("before", "after"), self._texts, strict=False):
                for text in texts:
                    smiles = canonical(text)
                    writer.writerow([when, text, smiles or "", smiles in self._known if smiles else ""])


def _r2(y_true: np.ndarray, y_pred: np.ndarray) -> float | None:
    """R2 where y_true is not NaN; None for fewer than ten values, or where they do not vary."""
    known = ~np.isnan(y_true)
    if known.sum() < _FEWEST or not np.ptp(y_true[known]):
        return None
    return float(r2_score(y_true[known], y_pred[known]))
