"""Asking an LLM: what is learnt, what may be answered, and that padding and batches change nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kflm2.config.finetune import FinetuneConfig
from kflm2.errors import LLMError
from kflm2.llm.decoding import IGNORE, load_decoder
from kflm2.llm.grammar import NumberGrammar, number_tokens
from kflm2.llm.prompter import Prompter
from kflm2.stages.prompt.templates import parse
from kflm2.trainers.lora.model import LoRAModel
from kflm2.trainers.prompt_tuning import teach

CPU = torch.device("cpu")
PROMPTS = ["SMILES: CCO\nx:", "SMILES: c1ccccc1CCCCN\nx:", "O:", "SMILES: CC(=O)OC1=CC=CC=C1C(=O)O\nx:"]


@pytest.fixture
def prompter(tiny_writer: Path) -> Prompter:
    llm, tokenizer = load_decoder(tiny_writer, CPU)
    return Prompter(llm, tokenizer)


def test_the_loss_is_of_the_answer_and_the_end_only(prompter: Prompter) -> None:
    tokenizer = prompter.tokenizer
    (row,) = prompter.rows(["CO:"], [" -1.5"])
    assert tokenizer.decode(row.ids[:-1]) == "CO: -1.5"
    assert row.ids[-1] == tokenizer.eos_token_id
    assert row.labels == [IGNORE] * 3 + row.ids[3:]
    (whole,) = prompter.rows(["CO:"], [" -1.5"], whole_text=True)
    assert whole.labels == whole.ids == row.ids
    # and the model's loss is of these alone: other prompts' labels would change it
    model = LoRAModel(prompter.llm, FinetuneConfig(), 0).eval()
    rows = prompter.rows(PROMPTS, [" 1.0", " -22.5", " 0.1", " 3"])
    loss = model(**prompter.collate(rows))["loss"].item()
    total, count = 0.0, 0
    for one in rows:  # one at a time, by the plain model
        with torch.inference_mode():
            logits = prompter.llm(input_ids=torch.tensor([one.ids])).logits[0]
        for place in range(1, len(one.ids)):
            if one.labels[place] != IGNORE:
                total -= torch.log_softmax(logits[place - 1], dim=-1)[one.ids[place]].item()
                count += 1
    assert loss == pytest.approx(total / count, rel=1e-5)
    np.testing.assert_allclose(prompter.log_likelihoods(rows).sum(), -total, rtol=1e-5)


def test_neither_padding_nor_batch_changes_an_answer(prompter: Prompter) -> None:
    for number in (None, (3, 2)):
        alone = [prompter.answers([prompt], number)[0] for prompt in PROMPTS]
        assert prompter.answers(PROMPTS, number) == alone
        assert prompter.answers(PROMPTS, number, batch=1) == alone
        assert prompter.answers(PROMPTS * 9, number, batch=5) == alone * 9
    # the plain way, without padding, cache or batch: the likeliest token, again and again
    tokenizer = prompter.tokenizer
    ids = tokenizer(PROMPTS[0])["input_ids"]
    begin = len(ids)
    with torch.inference_mode():
        while len(ids) - begin < 16 and (len(ids) == begin or ids[-1] != tokenizer.eos_token_id):
            ids.append(int(prompter.llm.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert prompter.answers(PROMPTS[:1]) == [[tokenizer.decode(ids[begin:], skip_special_tokens=True)]]


def test_samples_are_drawn_and_seeded(prompter: Prompter) -> None:
    drawn = prompter.answers(PROMPTS, (2, 1), samples=7, seed=3)
    assert [len(few) for few in drawn] == [7] * 4
    assert len({text for few in drawn for text in few}) > 4
    assert all(parse(text) is not None for few in drawn for text in few)
    assert drawn == prompter.answers(PROMPTS, (2, 1), samples=7, seed=3)
    assert drawn != prompter.answers(PROMPTS, (2, 1), samples=7, seed=4)


def test_probabilities_of_two_answers_add_up_to_one(prompter: Prompter) -> None:
    found, share = prompter.probabilities(PROMPTS, (" no", " yes"))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    for prompt, own, both in zip(PROMPTS, found, share, strict=True):
        log = []
        for answer in (" no", " yes"):
            begin, ids = len(prompt), prompter.tokenizer(prompt + answer)["input_ids"]
            with torch.inference_mode():
                each = torch.log_softmax(prompter.llm.eval()(input_ids=torch.tensor([ids])).logits[0], dim=-1)
            log.append(sum(each[i - 1, ids[i]].item() for i in range(begin, len(ids))))
        assert own[1] / own[0] == pytest.approx(np.exp(log[1] - log[0]), rel=1e-3)
        assert both == pytest.approx(np.exp(log).sum(), rel=1e-3)
    # one that begins like the other and is a thousandth as likely as a whole stays a probability
    assert np.isfinite(prompter.probabilities(PROMPTS, (" yes", " yes, beyond any doubt at all, yes"))[0]).all()


def _draw(grammar: NumberGrammar, tokenizer: PreTrainedTokenizerBase, seed: int, rows: int = 4) -> list[str]:
    """Answers written under the grammar by random scores."""
    generator = torch.Generator().manual_seed(seed)
    grammar.prompt = 3
    ids = torch.zeros(rows, grammar.prompt, dtype=torch.long)
    for _ in range(30):
        scores = 20 * torch.randn(rows, len(tokenizer), generator=generator)
        ids = torch.cat([ids, grammar(ids, scores).argmax(dim=-1, keepdim=True)], dim=1)
    assert (ids[:, -1] == tokenizer.eos_token_id).all(), "it did not end"
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in ids[:, grammar.prompt :]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), digits=st.integers(1, 6), decimals=st.integers(0, 6))
def test_nothing_but_a_number_comes_through_the_grammar(
    tiny_tokenizer: PreTrainedTokenizerBase, seed: int, digits: int, decimals: int
) -> None:
    for text in _draw(NumberGrammar(tiny_tokenizer, digits, decimals), tiny_tokenizer, seed):
        value = parse(text)
        assert value is not None
        assert abs(value) < 10**digits
        assert len(text.partition(".")[2]) == decimals


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_writer: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_writer)


def test_the_embedded_llms_tokenizer_writes_numbers(embedded: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    texts = number_tokens(tokenizer)
    assert {*"0123456789", ".", "-", " ", " -"} <= set(texts.values())
    assert all(tokenizer.decode([own]).strip() == text.strip() for own, text in texts.items())
    answers = {text for seed in range(20) for text in _draw(NumberGrammar(tokenizer, 2, 1), tokenizer, seed, 8)}
    assert all(parse(text) is not None for text in answers)
    assert any("-" in text for text in answers)
    # what is taught can be written
    grammar = NumberGrammar(tokenizer, 2, 2)
    for answer in (" -12.34", " 0.05", " 7.00"):
        ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert all(own in grammar.allowed(ids[:place]) for place, own in enumerate(ids))


def test_a_tokenizer_without_digits_is_refused(tiny_decoder: Path) -> None:
    with pytest.raises(LLMError, match="no token for '0'"):
        NumberGrammar(AutoTokenizer.from_pretrained(tiny_decoder), 2, 2)


def test_it_learns_to_answer_and_keeps_the_epoch_that_is_best_on_validation(prompter: Prompter) -> None:
    prompts = [f"{'C' * length}:" for length in range(1, 13)]
    rows = prompter.rows(prompts, [" 1.5" if length % 2 else " -7.0" for length in range(1, 13)])
    # the longer it learns the digits, the less likely it finds these
    valid = prompter.rows(prompts, [" 2.6" if length % 2 else " -8.9" for length in range(1, 13)])
    torch.manual_seed(0)
    model = LoRAModel(prompter.llm, FinetuneConfig(rank=16, dropout=0.0), 0)
    losses = teach(model, prompter, rows, valid, 20, 4, 0.02, seed=0)
    assert len(losses) == 20
    assert losses[-1] > min(losses) + 0.1
    labels = sum(own != IGNORE for row in valid for own in row.labels)
    assert -prompter.log_likelihoods(valid).sum() / labels == pytest.approx(min(losses), rel=1e-5)
    teach(model, prompter, rows, rows, 20, 4, 0.02, seed=0)
    found = [float(few[0]) for few in prompter.answers(prompts, (1, 1))]
    assert set(found) <= {1.5, -7.0}


def test_training_that_diverges_is_one_line(prompter: Prompter) -> None:
    rows = prompter.rows(PROMPTS, [" 1.0"] * 4)
    model = LoRAModel(prompter.llm, FinetuneConfig(dropout=0.0), 0)
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(LLMError, match="no epoch gave a finite validation loss"):
        teach(model, prompter, rows, rows, 1, 4, 0.01, seed=0)


def test_what_a_checkpoint_wants_of_its_own_generation_does_not_mix_in(tiny_writer: Path, tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(tiny_writer)
    plain.generation_config.repetition_penalty = 50.0
    plain.generation_config.do_sample = True
    plain.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_writer).save_pretrained(tmp_path)
    one, other = (Prompter(*load_decoder(folder, CPU)).answers(PROMPTS) for folder in (tiny_writer, tmp_path))
    assert one == other


def test_a_tokenizer_that_writes_the_begin_of_a_text_in_its_own_way_gives_the_same_tokens(tmp_path: Path) -> None:
    """As SentencePiece does, which puts a blank before the first word."""
    letters = "\u2581\n" + "".join(map(chr, range(33, 127)))
    vocabulary = {"<pad>": 0, "<unk>": 1, "\u2581\u2581": 2, **{letter: i + 3 for i, letter in enumerate(letters)}}
    backend = Tokenizer(models.BPE(vocabulary, [("\u2581", "\u2581")], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<pad>")
    (plain,) = tokenizer(["x -1.5"])["input_ids"]
    prompter = Prompter(None, tokenizer)
    (row,) = prompter.rows(["x"], [" -1.5"])
    assert row.ids[:-1] == plain
    prompter.check_numbers([" -1.5", " 0.2"], (1, 1))
    with pytest.raises(LLMError, match=r"writes 12\.5 in a way that is not known"):
        prompter.check_numbers([" 12.5"], (1, 1))
