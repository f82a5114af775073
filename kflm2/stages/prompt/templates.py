"""Prompts of stage 3: templates and answer formats, read from a TOML table such as resources/prompts.toml."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kflm2.data.datasets import Task
from kflm2.errors import DataError, one_of
from kflm2.files import read_toml

MOST_DIGITS, MOST_DECIMALS = 6, 6
"""Maximum digits before and after the decimal point of a value in an answer."""
_FIELDS = {"smiles", "quantity", "unit"}


@dataclass(frozen=True)
class PromptSpec:
    """How an LLM is prompted for one target, and how the answer is written."""

    templates: dict[str, str]
    """Name -> text with {smiles}, {quantity} and {unit}; the answer is appended to it without a separator."""
    quantity: str
    unit: str
    task: Task
    decimals: int
    answers: tuple[str, str]
    """Answers for class 0 and class 1."""

    def prompt(self, smiles: str, template: str, examples: list[tuple[str, float]] | None = None) -> str:
        """A prompt that ends where the answer begins.

        Args:
            smiles: the molecule.
            template: its name.
            examples: SMILES and values of molecules whose prompts and answers come first (few-shot).
        """
        unit = f" ({self.unit})" if self.unit else ""
        text = self.templates[template]
        answered = [
            text.format(smiles=example, quantity=self.quantity, unit=unit) + self.format_answer(value) + "\n\n"
            for example, value in examples or ()
        ]
        return "".join(answered) + text.format(smiles=smiles, quantity=self.quantity, unit=unit)

    def format_answer(self, value: float) -> str:
        """A value as the text of an answer.

        Raises:
            DataError: it has too many digits, or is not a class.
        """
        if self.task == "classification":
            if value not in (0, 1):
                raise DataError(f"{value:g} is no class; classes are 0 and 1")
            return self.answers[int(value)]
        text = f"{value:.{self.decimals}f}"
        if len(text.lstrip("-").partition(".")[0]) > MOST_DIGITS:
            raise DataError(f"{value:g} has more than {MOST_DIGITS} digits before the point and cannot be answered")
        # no negative zero
        return " " + (text.lstrip("-") if float(text) == 0 else text)


def read_prompt_spec(path: Path, dataset: str, target: str, task: Task) -> PromptSpec:
    """The prompt spec of a dataset's target, from a table such as resources/prompts.toml.

    Args:
        path: TOML file.
        dataset: its name. Keys that the section `DATASET TARGET` does not have are taken from the section `DATASET`,
            then from `default`.
        target: column to predict.
        task: of the target.

    Raises:
        DataError: the table cannot be read, or a key is missing or invalid; the message names it.
    """
    table = read_toml(path, "prompts", DataError)
    templates = _templates(path, table, task)
    values: dict[str, Any] = {"quantity": target, "unit": "", "decimals": 2, "answers": [" no", " yes"]}
    known = tuple(values)
    for name in ("default", dataset, f"{dataset} {target}"):
        section = {} if name == "templates" else table.get(name, {})
        if not isinstance(section, dict):
            raise DataError(f"prompts {path}: {name} is no table")
        if unknown := sorted(set(section) - set(known)):
            raise DataError(f"prompts {path}: {name} has an unknown key {unknown[0]!r}; there are: {', '.join(known)}")
        values |= section
    decimals, answers = values["decimals"], values["answers"]
    if not isinstance(decimals, int) or not 0 <= decimals <= MOST_DECIMALS:
        raise DataError(f"prompts {path}: decimals of {dataset} is {decimals}; it must be 0 to {MOST_DECIMALS}")
    if not isinstance(answers, list) or len(answers) != 2 or not all(_is_answer(answer) for answer in answers):
        raise DataError(f"prompts {path}: answers of {dataset} must be two words, each with a blank before it")
    if answers[0].startswith(answers[1]) or answers[1].startswith(answers[0]):
        raise DataError(
            f"prompts {path}: answers of {dataset}: one begins like the other, and could not be told from it"
        )
    quantity = str(values["quantity"]).replace("{target}", target)
    return PromptSpec(templates, quantity, str(values["unit"]), task, decimals, (answers[0], answers[1]))


def _is_answer(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(" ") and bool(value.strip())


def _templates(path: Path, table: dict[str, Any], task: Task) -> dict[str, str]:
    templates = table.get("templates", {}).get(task) if isinstance(table.get("templates"), dict) else None
    if not isinstance(templates, dict) or not templates:
        raise DataError(f"prompts {path}: no [templates.{task}]")
    for name, text in templates.items():
        try:
            fields = {field: spec for _, field, spec, _ in string.Formatter().parse(text) if field is not None}
        except (ValueError, TypeError) as error:
            raise DataError(f"prompts {path}: template {name}: {error}") from None
        if "smiles" not in fields or set(fields) - _FIELDS or any(fields.values()):
            raise DataError(
                f"prompts {path}: template {name} must have {{smiles}}, and may have {{quantity}}, {{unit}}"
            )
        if text[-1:].isspace():
            raise DataError(f"prompts {path}: template {name} ends with a blank, which belongs to the answer")
    return templates


def check_template(prompt_spec: PromptSpec, template: str) -> None:
    """Check that the table has a template of this name.

    Raises:
        SettingError: it has not.
    """
    one_of("template", template, tuple(prompt_spec.templates))


def parse_number(text: str) -> float | None:
    """The number in an answer that is only a number; None for any other answer.

    Leading and trailing blanks are allowed; other text is not, since the prompt asks for the value alone.
    """
    tokens = text.split()
    if len(tokens) != 1:
        return None
    try:
        value = float(tokens[0])
    except ValueError:
        return None
    digits = tokens[0].removeprefix("-").replace(".", "", 1)
    return value if digits.isascii() and digits.isdigit() else None
