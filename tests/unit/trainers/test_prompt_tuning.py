"""Training an LLM on prompts with their answers."""

from pathlib import Path

import pytest
import torch

from kflm2.config.finetune import FinetuneConfig
from kflm2.errors import LLMError
from kflm2.llm.decoding import IGNORE, load_decoder
from kflm2.llm.prompter import Prompter
from kflm2.trainers.lora.model import LoRAModel
from kflm2.trainers.prompt_tuning import tune_prompts

CPU = torch.device("cpu")
PROMPTS = ["SMILES: CCO\nx:", "SMILES: c1ccccc1CCCCN\nx:", "O:", "SMILES: CC(=O)OC1=CC=CC=C1C(=O)O\nx:"]


@pytest.fixture
def prompter(tiny_writer: Path) -> Prompter:
    return Prompter(*load_decoder(tiny_writer, CPU))


def test_tune_prompts_trains_the_answers_and_uses_the_best_validation_epoch(prompter: Prompter) -> None:
    prompts = [f"{'C' * length}:" for length in range(1, 13)]
    rows = prompter.rows(prompts, [" 1.5" if length % 2 else " -7.0" for length in range(1, 13)])
    # the validation answers have other digits, so their loss rises in late epochs
    valid = prompter.rows(prompts, [" 2.6" if length % 2 else " -8.9" for length in range(1, 13)])
    torch.manual_seed(0)
    model = LoRAModel(prompter.llm, FinetuneConfig(rank=16, dropout=0.0))
    losses = tune_prompts(model, prompter, rows, valid, 20, 4, 0.02, seed=0)
    assert len(losses) == 20
    assert losses[-1] > min(losses) + 0.1
    labels = sum(label != IGNORE for row in valid for label in row.labels)
    assert -prompter.log_likelihoods(valid).sum() / labels == pytest.approx(min(losses), rel=1e-5)
    tune_prompts(model, prompter, rows, rows, 20, 4, 0.02, seed=0)
    values = [float(answers[0]) for answers in prompter.answers(prompts, (1, 1))]
    assert set(values) <= {1.5, -7.0}


def test_training_that_diverges_is_an_error(prompter: Prompter) -> None:
    rows = prompter.rows(PROMPTS, [" 1.0"] * 4)
    model = LoRAModel(prompter.llm, FinetuneConfig(dropout=0.0))
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(LLMError, match="no epoch gave a finite validation loss"):
        tune_prompts(model, prompter, rows, rows, 1, 4, 0.01, seed=0)
