"""What stage 3 asks an LLM about a molecule, and how an answer is written; the words come from a table."""

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kflm2.data.datasets import Task
from kflm2.errors import DataError, one_of
from kflm2.files import read_toml

MOST_DIGITS = 6
"""Before the decimal point of a value that can be answered."""
_FIELDS = {"smiles", "quantity", "unit"}


@dataclass(frozen=True)
class PromptSpec:
    """How one target is asked for."""

    templates: dict[str, str]
    """Name -> text with {smiles}, {quantity} and {unit}; the answer follows it at once."""
    quantity: str
    unit: str
    task: Task
    decimals: int
    answers: tuple[str, str]
    """Of class 0 and of class 1."""

    def ask(self, smiles: str, template: str, shots: list[tuple[str, float]] | None = None) -> str:
        """A prompt that ends where the answer begins.

        Args:
            smiles: the molecule.
            template: name.
            shots: molecules with their values, as examples that come first.
        """
        unit = f" ({self.unit})" if self.unit else ""
        text = self.templates[template]
        examples = [
            text.format(smiles=own, quantity=self.quantity, unit=unit) + self.write(value) + "\n\n"
            for own, value in shots or ()
        ]
        return "".join(examples) + text.format(smiles=smiles, quantity=self.quantity, unit=unit)

    def write(self, value: float) -> str:
        """A value as an answer.

        Raises:
            DataError: it has more digits than can be answered, or is no class.
        """
        if self.task == "classification":
            if value not in (0, 1):
                raise DataError(f"{value:g} is no class; classes are 0 and 1")
            return self.answers[int(value)]
        text = f"{value:.{self.decimals}f}"
        if len(text.lstrip("-").partition(".")[0]) > MOST_DIGITS:
            raise DataError(f"{value:g} has more than {MOST_DIGITS} digits before the point and cannot be answered")
        # there is one zero
        return " " + (text.lstrip("-") if float(text) == 0 else text)


def read_prompt_spec(path: Path, dataset: str, target: str, task: Task) -> PromptSpec:
    """The words for a dataset's target, from a table such as prompt/prompts.toml.

    Args:
        path: TOML.
        dataset: its name; what the table does not say of it is taken from `default`.
        target: column to predict.
        task: of it.

    Raises:
        DataError: the table cannot be read or lacks something; the message says what.
    """
    table = read_toml(path, "prompts", DataError)
    templates = _templates(path, table, task)
    values: dict[str, Any] = {"quantity": target, "unit": "", "decimals": 2, "answers": [" no", " yes"]}
    known = tuple(values)
    for name in ("default", dataset):
        own = table.get(name, {})
        if not isinstance(own, dict):
            raise DataError(f"prompts {path}: {name} is no table")
        if unknown := sorted(set(own) - set(known)):
            raise DataError(f"prompts {path}: {name} has an unknown key {unknown[0]!r}; there are: {', '.join(known)}")
        values |= own
    decimals, answers = values["decimals"], values["answers"]
    if not isinstance(decimals, int) or not 0 <= decimals <= 6:
        raise DataError(f"prompts {path}: decimals of {dataset} is {decimals}; it must be 0 to 6")
    if not isinstance(answers, list) or len(answers) != 2 or not all(_is_answer(own) for own in answers):
        raise DataError(f"prompts {path}: answers of {dataset} must be two words, each with a blank before it")
    if answers[0].startswith(answers[1]) or answers[1].startswith(answers[0]):
        raise DataError(
            f"prompts {path}: answers of {dataset}: one begins like the other, and could not be told from it"
        )
    quantity = str(values["quantity"]).replace("{target}", target)
    return PromptSpec(templates, quantity, str(values["unit"]), task, decimals, (answers[0], answers[1]))


def _is_answer(own: Any) -> bool:
    return isinstance(own, str) and own.startswith(" ") and bool(own.strip())


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
    """Refuse a template that the table does not have."""
    one_of("template", template, tuple(prompt_spec.templates))


def parse(text: str) -> float | None:
    """The number that an answer is; None where it is anything else.

    Outer blanks do not count; words around a number do: what was asked for is the value alone.
    """
    words = text.split()
    if len(words) != 1:
        return None
    try:
        value = float(words[0])
    except ValueError:
        return None
    plain = words[0].removeprefix("-").replace(".", "", 1)
    return value if plain.isascii() and plain.isdigit() else None
