"""Which column of a user's table holds the SMILES, and whether its targets are numbers or classes.

Only what is clear is taken, and printed; else the user is asked. Nothing heavy is imported: a wrong name shows at once.
"""

from collections.abc import Sequence
from pathlib import Path

from kflm2.data import sdf
from kflm2.data.cells import is_written_number, looks_like, present
from kflm2.data.datasets import Task
from kflm2.data.tables import Table, column_names, read_columns
from kflm2.errors import DataError, SettingError

SMILES = "smiles"


def find_smiles(path: Path | str, names: Sequence[str]) -> str:
    """The column of SMILES: `smiles`, else the only one that has this word in its name, in any case.

    Args:
        path: of the table, for errors.
        names: of its columns.

    Raises:
        DataError: there is none, or there are several.
    """
    if SMILES in names:
        return SMILES
    found = [name for name in names if SMILES in name.lower()]
    exact = [name for name in found if name.strip().lower() == SMILES]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        raise DataError(
            f"{path}: which column holds the SMILES: {', '.join(map(repr, found))}? Name it (--smiles-column)"
        )
    raise DataError(
        f"{path}: no column 'smiles'; name the column of SMILES (--smiles-column); it has:"
        f" {', '.join(map(repr, names))}"
    )


def find_task(table: Table, targets: Sequence[str]) -> tuple[Task, str]:
    """What the targets are, and a note for the user; '' where they are plainly numbers.

    Raises:
        SettingError: some seem to be classes and others numbers.
    """
    looks = {target: looks_like(table.columns[target]) for target in targets}
    classes = [target for target, look in looks.items() if look == "classes"]
    if not classes:
        if all(look == "text" and _is_words(table.columns[target]) for target, look in looks.items()):
            return "classification", ""  # more than two words, of which the error tells more than of no number
        two = [target for target, look in looks.items() if look == "numbers" and _has_two_values(table.columns[target])]
        if not two:
            return "regression", ""
        values = " and ".join(sorted(_values(table, two[0])))
        return "regression", f"{two[0]}: two numbers ({values}), taken as numbers; --task classification makes classes"
    if numbers := [target for target, look in looks.items() if look in ("numbers", "text")]:
        raise SettingError(
            f"{table.path}: {classes[0]!r} looks like classes and {numbers[0]!r} does not: train on each by itself, or"
            " say what all are by --task regression or --task classification"
        )
    names = classes[0] if len(targets) == 1 else f"{len(targets)} targets"
    values = " and ".join(sorted(_values(table, classes[0]))[:2])
    return "classification", f"{names}: two values ({values}), so classes; --task regression takes 0 and 1 as numbers"


def _values(table: Table, target: str) -> set[str]:
    return set(present(table.columns[target]))


def _has_two_values(texts: Sequence[str]) -> bool:
    """Whether the cells, ten or more, are of two values."""
    found = present(texts)
    return len(found) >= 10 and len(set(found)) == 2


def _is_words(texts: Sequence[str]) -> bool:
    """Whether most cells are words, not numbers."""
    found = present(texts)
    return 2 * sum(map(is_written_number, found)) < len(found)


def find_columns(
    path: Path, smiles: str | None, targets: Sequence[str], others: Sequence[str], task: Task | None
) -> tuple[str | None, Task]:
    """The column of SMILES and the task of a table, where the settings leave them open; what was found is printed.

    Args:
        path: of the table.
        smiles: the column if it is known.
        targets: columns to predict.
        others: further columns that must be there.
        task: if it is known.

    Returns:
        The column (None for an SDF, which has none), and the task.

    Raises:
        DataError: the table cannot be read, or a column is not there.
        SettingError: no target is named, or it is not clear what the targets are.
    """
    if not targets:
        raise SettingError(
            f"--csv needs --target-columns, the columns to predict; {path} has: {_possible(path, smiles)}"
        )
    if smiles is None and not sdf.is_sdf(path):
        smiles = find_smiles(path, column_names(path, [*targets, *others]))
        if smiles != SMILES:
            print(f"SMILES: column {smiles!r}", flush=True)
    table = read_columns(path, list(dict.fromkeys([smiles or SMILES, *targets, *others])), smiles or SMILES)
    if task is None:
        task, note = find_task(table, targets)
        if note:
            print(note, flush=True)
    return smiles, task


def _possible(path: Path, smiles: str | None) -> str:
    """The columns that could be targets: those of numbers or of two values, else all."""
    names = [name for name in column_names(path) if name != smiles]
    unique = [name for name in dict.fromkeys(names) if names.count(name) == 1]
    table = read_columns(path, [SMILES, *unique] if sdf.is_sdf(path) else unique, SMILES)
    fitting = [name for name in unique if looks_like(table.columns[name]) in ("numbers", "classes")]
    return ", ".join(map(repr, fitting or unique)) or "none"
