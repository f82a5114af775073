"""A stage on the command line: options from the fields of its config class, and errors in one line.

Nothing heavy is imported before the settings are read and checked: `--help` or a mistyped option does not wait for
torch.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import json
import os
import pkgutil
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kflm2.errors import KFLM2Error, SettingError

if TYPE_CHECKING:
    from kflm2.config.base import StageConfig

_GROUPS = "data corpus split model LLM LoRA prompt training evaluation search comparison output".split()
"""Sections of a help page, in their order."""
INCOMPLETE = 3
"""Exit status of a stage that worked but had no result for some molecules."""
_LIBRARIES = "apt-get install libxrender1 libxext6 libexpat1"
"""What brings the libraries of the system with which RDKit draws."""


@dataclass
class Stage:
    """One row of the table of stages."""

    name: str
    """The words after `kflm2`."""
    group: str
    """Heading in `kflm2 --help`."""
    arguments: str
    """What follows the name, for `kflm2 --help`."""
    summary: str
    """One line for `kflm2 --help`."""
    description: str
    """Text of the stage's own help page."""
    config: str
    """module:class of its settings."""
    run: str
    """module:function that takes the settings. An integer that it returns counts molecules without a result."""
    table_first: bool = False
    """Whether the first word may be a dataset or a CSV file, without an option before it."""
    look: str | None = None
    """module:function that takes the settings too, and refuses an input that cannot work before `run` is imported."""
    program: str | None = None
    """Name in the usage line of the help page; None takes the script's."""

    def __call__(self, config: "StageConfig") -> Any:
        """Run the stage."""
        return pkgutil.resolve_name(self.run)(config)

    def from_command_line(self, args: Sequence[str] | None = None, **script: Any) -> None:
        """Read the settings and run; an error of the input ends with status 2 and one line on stderr.

        Precedence: command line, --config file, the script's own values, the pipeline's defaults, the defaults.

        Args:
            args: arguments of the command line; default those of this process.
            script: values that a thin script sets.
        """
        with _one_line_errors():
            config = self.read(list(sys.argv[1:] if args is None else args), script, complete=True)
            if self.look is not None:
                pkgutil.resolve_name(self.look)(config)
            failures = self(config)
        if isinstance(failures, int) and failures:
            sys.exit(INCOMPLETE)

    def read(self, args: list[str], script: dict[str, Any], complete: bool = False) -> Any:
        """Settings of the stage's config class from the arguments of a command line, checked; see from_command_line.

        Args:
            args: of the command line.
            script: values that a thin script sets.
            complete: download what is given by its address, and fill in what the input decides, which reads it.

        Raises:
            KFLM2Error: a value that cannot work.
        """
        import tyro

        from kflm2.config.base import to_arguments

        config_class: type[StageConfig] = pkgutil.resolve_name(self.config)
        if complete:
            args = _with_local_copies(args, config_class)
        new_names = {old: new for new, old in config_class.OLD_NAMES.items()}
        values = _config_file(_last_value(args, "config"), config_class)
        values = _without_other_table(values, args)
        unlisted = config_class.unlisted(values, {*script, *_named(args)})
        values = {
            name: value for name, value in values.items() if new_names.get(name, name) not in config_class.NOT_OPTIONS
        }
        given = {name: _last_value(args, name) or values.get(name) for name in config_class.FIRST}
        first = {new_names.get(name, name): value for name, value in given.items() if value}
        script = {new_names.get(name, name): value for name, value in script.items()}
        grouped = _grouped(config_class)
        settings = tyro.cli(
            grouped,
            # the last value of an option counts, so those of the file come before those of the command line
            args=[*to_arguments(values, config_class.POSITIONAL), *args],
            default=_group(grouped, config_class.of(**{**script, **first})),
            prog=self.program,
            description=self.description,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        config = config_class(**_flat(settings), **unlisted)
        if complete:
            config = config.completed()
        config.check()
        return config


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """End the process with status 2 and one line on stderr after an error of the input, with 130 after Ctrl-C.

    So does a library of the system that is not there: RDKit draws with some that a small container has not.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of standard output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (KFLM2Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        if "cannot open shared object file" not in str(error):
            raise
        advice = f"; on Debian and Ubuntu: {_LIBRARIES}" if re.match("libX|libexpat", str(error)) else ""
        print(f"error: {error}{advice}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _with_local_copies(args: list[str], config_class: "type[StageConfig]") -> list[str]:
    """The arguments with a downloaded file for each address of molecules.

    Only what the user types is followed: never an address in a file of settings, which may come from elsewhere.
    """
    from kflm2.config.base import hints_of

    flags = {
        f"--{no}{name.replace('_', '-')}"
        for name, hint in hints_of(config_class).items()
        if hint is bool
        for no in ("", "no-")
    }
    positional = not set(config_class.ADDRESSES).isdisjoint(config_class.POSITIONAL)
    replaced, option = [], ""  # the option whose value is the next word
    for word in args:
        if re.match("--?[A-Za-z]", word):
            option, equals, value = word.partition("=")
            if equals:
                word = f"{option}={_local(value)}" if option.removeprefix("--") in config_class.ADDRESSES else word
            if equals or option.replace("_", "-") in flags:
                option = ""
        else:
            of_molecules = option.removeprefix("--") in config_class.ADDRESSES if option else positional
            word, option = (_local(word) if of_molecules else word), ""
        replaced.append(word)
    return replaced


def _local(word: str) -> str:
    """The path of a downloaded file for an address; any other word as it is."""
    if "://" not in word:
        return word
    from kflm2.data import remote

    return str(remote.local_copy(word)) if remote.is_address(word) else word


def _last_value(args: list[str], option: str) -> str | None:
    """The last value of an option among the arguments, before tyro reads them: other defaults depend on it."""
    value = None
    for word, following in zip(args, [*args[1:], ""], strict=False):
        if word == f"--{option}":
            value = following or None
        elif word.startswith(f"--{option}="):
            value = word.partition("=")[2]
    return value


def _named(args: list[str]) -> set[str]:
    """Names of the settings that have an option among the arguments."""
    words = (word[2:].partition("=")[0].replace("-", "_") for word in args if word.startswith("--"))
    return {word.removeprefix("no_") for word in words}


def _without_other_table(values: dict[str, Any], args: list[str]) -> dict[str, Any]:
    """Settings of a file without those of its table that another one, among the arguments, contradicts."""
    of_table: set[str] = set()
    if "target_columns" in _named(args) and not set(values.get("target_columns", ())) <= set(args):
        of_table |= {"task", "kind"}
    dataset, other = _last_value(args, "dataset"), values.get("dataset")
    # a file that names no table has settings of whichever is given
    if dataset is not None and (values.get("csv") is not None or other not in (None, dataset)):
        of_table |= {"csv", *_OF_OWN_TABLE}
    elif _last_value(args, "csv") is not None and other is not None:
        of_table |= {"dataset", *_OF_OWN_TABLE}
    return {name: value for name, value in values.items() if name not in of_table}


_OF_OWN_TABLE = (
    *("smiles_column", "target_columns", "qualifier_columns", "weight_column", "feature_columns", "split_column"),
    *("task", "kind"),
)
"""Settings that say which columns of a table are meant, and of what kind the targets are."""


def _config_file(name: str | None, config_class: "type[StageConfig]") -> dict[str, Any]:
    """Settings of a JSON file, or those in a result.json; a key that is no setting is an error."""
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
    if isinstance(values.get("config"), dict):
        values = values["config"]
    for setting in config_class.ADDRESSES:
        if "://" in str(values.get(setting, "")):
            raise SettingError(f"--config {path}: {setting} is an address; give it on the command line")
    fields = {field.name for field in dataclasses.fields(config_class)} - {"config"}
    known = fields | set(config_class.OLD_NAMES.values())
    if unknown := sorted(set(values) - known):
        raise SettingError(f"--config {path}: unknown setting {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    for setting in set(config_class.FIRST) & set(values):
        if not isinstance(values[setting], str | None):
            raise SettingError(f"--config {path}: {setting} is {values[setting]!r}; it must be a word")
    # runs are replaced when a user asks for it, not a file
    values.pop("again", None)
    # an old name is an option too, while a field may have another one
    options = {name: config_class.OLD_NAMES.get(name, name) for name in known}
    return {options[name]: value for name, value in values.items()}


def _grouped(config_class: "type[StageConfig]") -> Any:
    """A dataclass like a config class with its fields in groups, which become the sections of the help page.

    tyro makes a section of each nested dataclass; settings are flat, so that code reads `config.epochs`.
    """
    import tyro

    hints = typing.get_type_hints(config_class, include_extras=True)
    owners = {
        name: owner for owner in reversed(config_class.__mro__) for name in vars(owner).get("__annotations__", {})
    }
    groups: dict[str, list[Any]] = {}
    for field in dataclasses.fields(config_class):
        if field.name in config_class.NOT_OPTIONS:
            continue
        owner = owners[field.name]
        group = field.metadata.get("group", vars(owner).get("GROUP", ""))
        explanation = tyro.conf.arg(help=_explanations(owner)[field.name])
        entry = (field.name, Annotated[hints[field.name], explanation], dataclasses.field(default=None))
        groups.setdefault(group, []).append(entry)
    entries = groups.pop("", [])
    for title in sorted(groups, key=_GROUPS.index):
        entries.append((title, dataclasses.make_dataclass(title, groups[title])))
    return dataclasses.make_dataclass(config_class.__name__, entries, kw_only=True)


def _group(grouped: Any, config: "StageConfig") -> Any:
    """The settings in their groups."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(grouped):
        if dataclasses.is_dataclass(field.type):
            names = [inner.name for inner in dataclasses.fields(field.type)]
            values[field.name] = field.type(**{name: getattr(config, name) for name in names})  # type: ignore[operator]
        else:
            values[field.name] = getattr(config, field.name)
    return grouped(**values)


def _flat(settings: Any) -> dict[str, Any]:
    """Field -> value of settings in groups."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        values |= _flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


@functools.cache
def _explanations(owner: type) -> dict[str, str]:
    """Field -> the text under it in the source of the class."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(node, ast.ClassDef)
    texts = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            texts[statement.target.id] = " ".join(str(following.value.value).split())
    return texts
