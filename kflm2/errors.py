"""Errors that a user can cause. The command line prints them as one line and exits with status 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class KFLM2Error(Exception):
    """Base of every error that the input causes, not the program."""


class DataError(KFLM2Error):
    """A table, a column, a target or a split that cannot be used."""


class MoleculeError(KFLM2Error):
    """One molecule that cannot be used; the message is the reason."""


class LLMError(KFLM2Error):
    """An LLM or adapter that is unknown, unavailable or incompatible."""


class SettingError(KFLM2Error):
    """A setting with an invalid value."""


def one_of(kind: str, value: str, choices: list[str] | tuple[str, ...]) -> str:
    """Return value if it is one of the choices.

    Raises:
        SettingError: it is not one of them; the message lists the choices, and names the one that it is most like.
    """
    if value not in choices:
        raise SettingError(
            f"unknown {kind} {value!r}{did_you_mean(value, choices)}; choose one of: {', '.join(choices)}"
        )
    return value


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """` (did you mean 'SAMPL'?)`, of the choice that is most like a word, in any case; '' where none is."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = get_close_matches(value.lower(), by_lower, n=1, cutoff=0.7)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
