"""Prompting an LLM: labels, probabilities, and that answers do not depend on padding and batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from kflm2.config.finetune import FinetuneConfig
from kflm2.errors import LLMError
from kflm2.llm.decoding import IGNORE, load_decoder
from kflm2.llm.prompter import Prompter
from kflm2.stages.prompt.templates import parse_number
from kflm2.trainers.lora.model import LoRAModel

CPU = torch.device("cpu")
PROMPTS = ["SMILES: CCO\nx:", "SMILES: c1ccccc1CCCCN\nx:", "O:", "SMILES: CC(=O)OC1=CC=CC=C1C(=O)O\nx:"]


@pytest.fixture
def prompter(tiny_writer: Path) -> Prompter:
    llm, tokenizer = load_decoder(tiny_writer, CPU)
    return Prompter(llm, tokenizer)


def test_only_the_answer_and_the_end_token_have_a_loss(prompter: Prompter) -> None:
    tokenizer = prompter.tokenizer
    (row,) = prompter.rows(["CO:"], [" -1.5"])
    assert tokenizer.decode(row.ids[:-1]) == "CO: -1.5"
    assert row.ids[-1] == tokenizer.eos_token_id
    assert row.labels == [IGNORE] * 3 + row.ids[3:]
    (whole,) = prompter.rows(["CO:"], [" -1.5"], whole_text=True)
    assert whole.labels == whole.ids == row.ids
    # the loss of the model is computed from these labels only
    model = LoRAModel(prompter.llm, FinetuneConfig()).eval()
    rows = prompter.rows(PROMPTS, [" 1.0", " -22.5", " 0.1", " 3"])
    loss = model(**prompter.collate(rows))["loss"].item()
    total, count = 0.0, 0
    for row in rows:  # one row at a time, with the LLM itself
        with torch.inference_mode():
            logits = prompter.llm(input_ids=torch.tensor([row.ids])).logits[0]
        for i in range(1, len(row.ids)):
            if row.labels[i] != IGNORE:
                total -= torch.log_softmax(logits[i - 1], dim=-1)[row.ids[i]].item()
                count += 1
    assert loss == pytest.approx(total / count, rel=1e-5)
    np.testing.assert_allclose(prompter.log_likelihoods(rows).sum(), -total, rtol=1e-5)


def test_answers_do_not_depend_on_padding_or_batch(prompter: Prompter) -> None:
    for number_format in (None, (3, 2)):
        expected = [prompter.answers([prompt], number_format)[0] for prompt in PROMPTS]
        assert prompter.answers(PROMPTS, number_format) == expected
        assert prompter.answers(PROMPTS, number_format, batch=1) == expected
        assert prompter.answers(PROMPTS * 9, number_format, batch=5) == expected * 9
    # greedy decoding without padding, cache or batch
    tokenizer = prompter.tokenizer
    ids = tokenizer(PROMPTS[0])["input_ids"]
    begin = len(ids)
    with torch.inference_mode():
        while len(ids) - begin < 16 and (len(ids) == begin or ids[-1] != tokenizer.eos_token_id):
            ids.append(int(prompter.llm.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert prompter.answers(PROMPTS[:1]) == [[tokenizer.decode(ids[begin:], skip_special_tokens=True)]]


def test_samples_differ_and_are_seeded(prompter: Prompter) -> None:
    samples = prompter.answers(PROMPTS, (2, 1), samples=7, seed=3)
    assert [len(answers) for answers in samples] == [7] * 4
    assert len({text for answers in samples for text in answers}) > 4
    assert all(parse_number(text) is not None for answers in samples for text in answers)
    assert samples == prompter.answers(PROMPTS, (2, 1), samples=7, seed=3)
    assert samples != prompter.answers(PROMPTS, (2, 1), samples=7, seed=4)


def test_probabilities_of_two_answers_add_up_to_one(prompter: Prompter) -> None:
    probabilities, total = prompter.probabilities(PROMPTS, (" no", " yes"))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    for prompt, row, row_total in zip(PROMPTS, probabilities, total, strict=True):
        log_likelihoods = []
        for answer in (" no", " yes"):
            begin, ids = len(prompt), prompter.tokenizer(prompt + answer)["input_ids"]
            with torch.inference_mode():
                log_probs = torch.log_softmax(prompter.llm.eval()(input_ids=torch.tensor([ids])).logits[0], dim=-1)
            log_likelihoods.append(sum(log_probs[i - 1, ids[i]].item() for i in range(begin, len(ids))))
        assert row[1] / row[0] == pytest.approx(np.exp(log_likelihoods[1] - log_likelihoods[0]), rel=1e-3)
        assert row_total == pytest.approx(np.exp(log_likelihoods).sum(), rel=1e-3)
    # an answer that begins like the other but is longer, so far less likely, still has a finite probability
    assert np.isfinite(prompter.probabilities(PROMPTS, (" yes", " yes, beyond any doubt at all, yes"))[0]).all()


def test_generation_settings_of_the_checkpoint_are_ignored(tiny_writer: Path, tmp_path: Path) -> None:
    llm = AutoModelForCausalLM.from_pretrained(tiny_writer)
    llm.generation_config.repetition_penalty = 50.0
    llm.generation_config.do_sample = True
    llm.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_writer).save_pretrained(tmp_path)
    expected, answers = (Prompter(*load_decoder(folder, CPU)).answers(PROMPTS) for folder in (tiny_writer, tmp_path))
    assert answers == expected


def test_answer_tokens_are_correct_if_a_tokenizer_changes_the_beginning_of_a_text(tmp_path: Path) -> None:
    """As SentencePiece does, which puts a space before the first word."""
    letters = "\u2581\n" + "".join(map(chr, range(33, 127)))
    vocabulary = {"<pad>": 0, "<unk>": 1, "\u2581\u2581": 2, **{letter: i + 3 for i, letter in enumerate(letters)}}
    backend = Tokenizer(models.BPE(vocabulary, [("\u2581", "\u2581")], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<pad>")
    (expected,) = tokenizer(["x -1.5"])["input_ids"]
    prompter = Prompter(None, tokenizer)
    (row,) = prompter.rows(["x"], [" -1.5"])
    assert row.ids[:-1] == expected
    prompter.check_numbers([" -1.5", " 0.2"], (1, 1))
    with pytest.raises(LLMError, match=r"splits 12\.5 into tokens that are not supported"):
        prompter.check_numbers([" 12.5"], (1, 1))
