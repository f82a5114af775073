"""Prompts from prompts.toml: their text, and an error of one line for every invalid file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kflm2 import resources
from kflm2.data.datasets import DATASETS
from kflm2.errors import DataError
from kflm2.stages.prompt.templates import PromptSpec, parse_number, read_prompt_spec

PROMPTS = resources.packaged("prompts.toml")


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_has_prompts(name: str) -> None:
    dataset = DATASETS[name]
    prompt_spec = read_prompt_spec(PROMPTS, name, dataset.targets[0], dataset.task)
    assert len(prompt_spec.templates) == 4
    assert f"[{name}]" in PROMPTS.read_text()
    assert prompt_spec.unit == dataset.unit
    for template in prompt_spec.templates:
        prompt = prompt_spec.prompt("CCO", template)
        assert prompt.count("CCO") == 1
        assert "{" not in prompt


def test_the_papers_prompt_with_examples_and_the_answers() -> None:
    prompt_spec = read_prompt_spec(PROMPTS, "SAMPL", "expt", "regression")
    assert prompt_spec.prompt("CCO", "plain") == "SMILES: CCO\nhydration free energy (kcal/mol):"
    assert prompt_spec.prompt("CCO", "plain", [("C", 2.0), ("CC", -1.834)]) == (
        "SMILES: C\nhydration free energy (kcal/mol): 2.00\n\n"
        "SMILES: CC\nhydration free energy (kcal/mol): -1.83\n\n"
        "SMILES: CCO\nhydration free energy (kcal/mol):"
    )
    default = read_prompt_spec(PROMPTS, "mine", "logS", "regression")
    assert default.prompt("CCO", "plain") == "SMILES: CCO\nlogS:"
    tox = read_prompt_spec(PROMPTS, "Tox21", "SR-p53", "classification")
    assert tox.quantity == "is active in the toxicity assay SR-p53"
    assert (tox.format_answer(0.0), tox.format_answer(1.0)) == (" no", " yes")
    with pytest.raises(DataError, match=r"0\.5 is no class"):
        tox.format_answer(0.5)


def test_a_target_may_have_words_of_its_own_and_a_table_any_name() -> None:
    toxic, approved = (
        read_prompt_spec(PROMPTS, "ClinTox", target, "classification") for target in ("CT_TOX", "FDA_APPROVED")
    )
    assert toxic.quantity == "failed a clinical trial for toxicity" and approved.quantity == "was approved by the FDA"
    assert read_prompt_spec(PROMPTS, "templates", "y", "regression").quantity == "y"


VALID = "[templates.regression]\nplain = '{smiles}'\n[SAMPL]\n"
SPEC = PromptSpec({"plain": "{smiles}:"}, "x", "", "regression", 2, (" no", " yes"))


@given(st.floats(-999_999, 999_999))
def test_a_written_value_is_read_back(value: float) -> None:
    text = SPEC.format_answer(value)
    assert text.startswith(" ")
    assert parse_number(text) == pytest.approx(value, abs=0.00501)
    assert text != " -0.00"


def test_a_value_with_more_than_6_digits_is_refused() -> None:
    with pytest.raises(DataError, match="more than 6 digits before the point"):
        SPEC.format_answer(-1e6)


@pytest.mark.parametrize(
    ("text", "value"),
    [("-5.01", -5.01), (" 3", 3.0), ("7.", 7.0), (".5", 0.5), ("\n 2.0\n", 2.0), ("- 5", None), ("5 kcal/mol", None),
     ("about 5", None), ("", None), ("nan", None), ("inf", None), ("1e3", None), ("1_000", None), ("--1", None),
     ("+5", None), ("5.0.1", None), ("\u0665", None)],
)  # fmt: skip
def test_only_plain_decimal_numbers_are_parsed(text: str, value: float | None) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[templates", "is not TOML"),
        ("a = 1", r"no \[templates\.regression\]"),
        ("templates = 1", r"no \[templates\.regression\]"),
        ("[templates.regression]\nplain = 'x'", "must have {smiles}"),
        ("[templates.regression]\nplain = '{smiles} {color}'", "must have {smiles}, and may have"),
        ("[templates.regression]\nplain = '{smiles:d}'", "must have {smiles}, and may have"),
        ("[templates.regression]\nplain = '{smiles'", "template plain: "),
        ("[templates.regression]\nplain = '{smiles}: '", "ends with a blank"),
        (VALID + "decimals = 9", "decimals of SAMPL is 9"),
        (VALID + "answers = 3", "must be two words, each with a blank"),
        (VALID + "answers = ['no', 'yes']", "must be two words, each with a blank"),
        (VALID + "answers = [' a', ' ab']", "one begins like the other"),
        (VALID + "units = 'x'", "unknown key 'units'; there are: quantity, unit, decimals, answers"),
        ("default = 1\n" + VALID, "default is no table"),
    ],
)
def test_the_error_of_an_invalid_prompts_file_is_one_line(table: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.toml"
    path.write_text(table)
    with pytest.raises(DataError, match=message) as caught:
        read_prompt_spec(path, "SAMPL", "expt", "regression")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        read_prompt_spec(tmp_path / "none.toml", "SAMPL", "expt", "regression")
