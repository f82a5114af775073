"""A stage's settings as a command line: tyro makes the options from the fields, and errors end in one line."""

import contextlib
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from kflm2.config.base import StageConfig
from kflm2.config.prompt import PromptConfig
from kflm2.config.train import TrainConfig
from kflm2.errors import KFLM2Error, SettingError

S = TypeVar("S", bound=TrainConfig | PromptConfig | StageConfig)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the input is at fault for ends the process with status 2 and one line on stderr; Ctrl-C with 130."""
    try:
        yield
    except (KFLM2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


class Command:
    """A function whose signature is its command line."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.__doc__ = inspect.cleandoc(function.__doc__ or "")
        self.program: str | None = None
        """Name in the help's usage line; None takes the script's."""

    def __call__(self, *args: Any, **values: Any) -> None:
        """Run it."""
        self.function(*args, **values)

    def from_command_line(self, args: Sequence[str] | None = None) -> None:
        """Read the arguments and run; end with status 2 and one line on stderr where the input is at fault."""
        import tyro

        with _one_line_errors():
            tyro.cli(
                self.function,
                args=list(sys.argv[1:] if args is None else args),
                prog=self.program,
            )


class Stage(Generic[S]):
    """A function of one settings object that can also be run from the command line."""

    def __init__(self, function: Callable[[S], None], settings: type[S]) -> None:
        self.function = function
        self.settings = settings
        self.__doc__ = inspect.cleandoc(function.__doc__ or "")
        self.program: str | None = None
        """Name in the help's usage line; None takes the script's."""

    def __call__(self, settings: S) -> None:
        """Run the stage."""
        self.function(settings)

    def from_command_line(self, args: Sequence[str] | None = None, **script: Any) -> None:
        """Read settings and run; end with status 2 and one line on stderr where the input is at fault.

        What goes before what: command line, --config file, the script's own values, the pipeline's, the defaults.

        Args:
            args: words of the command line; default those of this process.
            script: values that a thin script sets.
        """
        args = list(sys.argv[1:] if args is None else args)
        with _one_line_errors():
            self.function(self.read(args, script))

    def read(self, args: list[str], script: dict[str, Any]) -> S:
        """Settings from the words of a command line; see from_command_line.

        Raises:
            KFLM2Error: a value that cannot work.
        """
        import tyro

        values = _config(_given(args, "config"), {field.name for field in dataclasses.fields(self.settings)})
        # what other settings' defaults depend on must be known before they are
        first = {name: found for name in self.settings.FIRST if (found := _given(args, name) or values.get(name))}
        settings = tyro.cli(
            self.settings,
            # a later word wins, so the file's settings go before those of the command line
            args=[*words(values, getattr(self.settings, "POSITIONAL", ())), *args],
            default=self.settings.of(**{**script, **first}),
            prog=self.program,
            description=self.__doc__,
        )
        settings.check()
        return settings


def words(values: dict[str, Any], positional: Sequence[str] = ()) -> list[str]:
    """Settings as words of a command line, so that they are read and checked as those are."""
    # those without a name come first, before an option that takes several words
    given = [values[name] for name in positional if name in values]
    said = [str(part) for value in given for part in (value if isinstance(value, list | tuple) else [value])]
    for name, value in values.items():
        if name in positional:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            said.append(f"--{'' if value else 'no-'}{option}")
            continue
        said.append(f"--{option}")
        said += [str(part) for part in value] if isinstance(value, list) else [str(value)]
    return said


def _given(args: list[str], option: str) -> str | None:
    """The value of an option among the words, before tyro reads them: the defaults depend on it."""
    for word, following in zip(args, [*args[1:], ""], strict=False):
        if word == f"--{option}":
            return following or None
        if word.startswith(f"--{option}="):
            return word.partition("=")[2]
    return None


def _config(name: str | None, known: set[str]) -> dict[str, Any]:
    """Settings of a JSON file; a key that is no setting is an error."""
    if name is None:
        return {}
    path = Path(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"--config {path}: {error.strerror or error}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise SettingError(f"--config {path}: not an object of settings")
    if unknown := sorted(set(values) - known):
        raise SettingError(f"--config {path}: unknown setting {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    return values
