"""What the settings of all stages have in common. Nothing heavy is imported here.

A setting is a field of a frozen dataclass, its explanation the text under the field: `--help` is made from these. A
class whose fields belong together names their group on the help page in GROUP; a single field may name another one in
its metadata.
"""

import dataclasses
import os
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro

from kflm2.errors import SettingError


@dataclass(frozen=True)
class StageConfig:
    """Settings that a JSON file may give too."""

    config: Path | None = None
    """JSON file of settings, or a result.json; the command line overrides it."""

    GROUP: ClassVar[str] = ""
    """Title of these fields on the help page; each class has its own."""
    FIRST: ClassVar[tuple[str, ...]] = ()
    """Options on which the defaults of others depend."""
    POSITIONAL: ClassVar[tuple[str, ...]] = ()
    """Settings without a name on the command line."""
    NOT_OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Fields that are no option of the command line; a JSON file may have them."""
    ADDRESSES: ClassVar[tuple[str, ...]] = ()
    """Settings that name files to read, for which the command line takes addresses, such as https://host/table.csv."""
    OLD_NAMES: ClassVar[dict[str, str]] = {}
    """Field -> its earlier name, which the command line takes too and JSON files use."""

    def __post_init__(self) -> None:
        """Take a string for a path, a list for a tuple and NumPy's numbers, as Python code likes to give them.

        Raises:
            SettingError: a value that is none of its setting.
        """
        for name, hint in hints_of(type(self)).items():
            value = _plain(getattr(self, name), hint)
            if not is_of(value, hint):
                raise SettingError(f"{name} is {value!r}; it must be {words_of(hint)}")
            if isinstance(value, Path) and _ADDRESS.match(str(value)) and name not in self.ADDRESSES:
                raise SettingError(f"{name} is {value}, an address; give a path")
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings from the given values, else the defaults; not yet checked."""
        return cls(**values)

    @classmethod
    def unlisted(cls, values: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """The fields that are no options.

        Args:
            values: of the JSON file.
            given: names of the settings that the command line or a script gives.
        """
        return {}

    def completed(self) -> Self:
        """The same settings with those filled in that the input decides; done once, before they are checked.

        Raises:
            KFLM2Error: the input cannot be used.
        """
        return self

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """


_ADDRESS = re.compile("[A-Za-z][A-Za-z0-9+.-]+:/")
"""Of a path made of an address, which has one slash left; C:/ is a disk."""
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", Path: "a path"}


def hints_of(config_class: type[Any]) -> dict[str, Any]:
    """Setting -> its type."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def _choices(hint: Any) -> tuple[Any, ...]:
    """The types that a value may be of."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _plain(value: Any, hint: Any) -> Any:
    """A value in the type of its setting, where Python code gave it in a like one."""
    # without NumPy, which nothing here may wait for
    if any((base.__module__, base.__name__) == ("numpy", "generic") for base in type(value).__mro__):
        value = value.item()
    if isinstance(value, str | os.PathLike) and Path in _choices(hint):
        return Path(value)
    if isinstance(value, list) and any(typing.get_origin(choice) is tuple for choice in _choices(hint)):
        return tuple(value)
    return value


def is_of(value: Any, hint: Any) -> bool:
    """Whether a setting of a type may have a value."""
    arguments = typing.get_args(hint)
    if len(choices := _choices(hint)) > 1:
        return any(is_of(value, choice) for choice in choices)
    if typing.get_origin(hint) is Literal:
        return isinstance(value, str) and value in arguments
    if typing.get_origin(hint) is tuple:
        items = arguments[:1] * len(value) if arguments[1:] == (...,) and isinstance(value, tuple) else arguments
        return isinstance(value, tuple) and len(value) == len(items) and all(map(is_of, value, items))
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def words_of(hint: Any) -> str:
    """What a setting of a type may be, in words."""
    if len(choices := _choices(hint)) > 1:
        return " or ".join(words_of(choice) for choice in choices if choice is not types.NoneType)
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(typing.get_args(hint))}"
    if typing.get_origin(hint) is tuple:
        item, *rest = typing.get_args(hint)
        return f"a list, each of it {words_of(item)}" if rest == [...] else f"a list of {1 + len(rest)}"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


@dataclass(frozen=True)
class InferenceConfig(StageConfig):
    """Which saved model is used on which molecules."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = Path("model")
    """Folder that `kflm2 train --save` wrote, or the name of a model of `kflm2 models`."""
    molecules: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE|-|SMILES")] = ()
    """A .csv, .xlsx, .smi, .sdf or .parquet file, also .csv.gz and the like or an address (https://host/a.smi), - for
    SMILES on standard input, or SMILES."""
    smiles_column: str | None = None
    """Of a table: its column of SMILES; default the one that the model was trained on, else smiles, or the only one
    with this word in its name."""
    name_column: str | None = None
    """Of a table: a column that is copied to the output, such as an id."""
    llm: str | None = None
    """Where the model's LLM is, for one that is not in the registry."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    POSITIONAL: ClassVar = ("model", "molecules")
    ADDRESSES: ClassVar = ("molecules",)

    @property
    def reads_features(self) -> bool:
        """Whether the columns are read that the model was trained on beside the structure, if there are any."""
        return True

    def check(self) -> None:
        """Refuse values that cannot work."""
        if not self.molecules:
            raise SettingError(
                "give molecules: a .csv, .xlsx, .smi, .sdf or .parquet file, - for standard input, or SMILES"
            )


@dataclass(frozen=True)
class StreamConfig(InferenceConfig):
    """How a file of any size is read: an output row for each row of it."""

    out: Path | None = None
    """File to write; None for standard output."""
    keep_columns: bool = True
    """Copy the other columns of a table to the output; where a name is taken there, with _given after it."""
    shard: str | None = None
    """I/N: the I-th of N equal shares of the rows, for N processes with a file each."""
    jobs: int | None = None
    """Processes that work at once; the output is the same bytes for any number. Default: one for each core,
    and one for standard input. With a GPU they compute descriptors and graphs, and one more process the rest."""
    engine: Literal["local", "ray"] = "local"
    """local: the processes are of this machine. ray: they are of all machines of the Ray cluster that the variable
    RAY_ADDRESS names, one for each core or GPU, and without it of this machine; --out is then a folder, for Parquet
    files."""
    max_atoms: int = 600
    """Atoms of a molecule, without hydrogens; a larger one has the status 'too large' and no result. 600 take about
    3 seconds where the model reads descriptors, and the time grows with the square."""
    max_tokens: int = 2048
    """Tokens of a SMILES where an LLM is read; a longer one has the status 'too large' and no result. 2,048 take the
    embedded LLM about 3 seconds on two cores."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        super().check()
        check_at_least(self, 1, "max_atoms", "max_tokens", "jobs")
        self.share()
        if self.shard is not None and (self.molecules == ("-",) or self.out is None):
            raise SettingError("--shard needs a file to read and --out, a file of its own to write")
        if self.engine == "ray":
            self._check_ray()

    def _check_ray(self) -> None:
        if self.molecules == ("-",):
            raise SettingError("--engine ray reads no standard input; give a file")
        if self.shard is not None:
            raise SettingError("--engine ray shares the rows itself; leave --shard out")
        if self.out is None or self.out == type(self).out or self.out.suffix.lower() in (".csv", ".parquet"):
            raise SettingError("--engine ray needs --out FOLDER, for Parquet files")
        if self.device not in ("auto", "cpu", "cuda"):
            raise SettingError(
                f"device {self.device!r}: --engine ray takes auto, cpu or cuda, and each GPU of it one actor"
            )

    def share(self) -> tuple[int, int]:
        """Number of the share, from 1, and how many there are.

        Raises:
            SettingError: no such share.
        """
        if self.shard is None:
            return 1, 1
        number, slash, count = self.shard.partition("/")
        if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise SettingError(f"shard {self.shard!r}: give I/N, such as 2/4")
        return int(number), int(count)


def check_at_least(config: object, low: int, *names: str) -> None:
    """Refuse a value below `low`; None, where a default is filled in later, passes."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < low:
            raise SettingError(f"{name} is {value}; it must be at least {low}")


def check_below_one(config: object, *names: str) -> None:
    """Refuse a share outside [0, 1)."""
    for name in names:
        if not 0 <= (value := getattr(config, name)) < 1:
            raise SettingError(f"{name} is {value}; it must be at least 0 and less than 1")


def check_positive(config: object, *names: str) -> None:
    """Refuse a value that is 0 or less, or not a number."""
    for name in names:
        if not (value := getattr(config, name)) > 0:
            raise SettingError(f"{name} is {value}; it must be positive")


def check_not_negative(config: object, *names: str) -> None:
    """Refuse a value below 0, or not a number."""
    for name in names:
        if not (value := getattr(config, name)) >= 0:
            raise SettingError(f"{name} is {value}; it must not be negative")


def to_json(config: StageConfig) -> dict[str, Any]:
    """Settings as JSON values, which `--config` reads back; those that are None, and the file itself, are left out."""
    values = dataclasses.asdict(config)
    return {
        config.OLD_NAMES.get(name, name): str(value)
        if isinstance(value, Path)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in values.items()
        if name != "config" and value is not None
    }


def to_arguments(values: dict[str, Any], positional: Sequence[str] = ()) -> list[str]:
    """Settings as arguments of a command line, so that they are read and checked as those are.

    Args:
        values: name, also an old one, -> JSON value.
        positional: names of those without an option; they come first, before an option that takes several arguments.
    """
    given = [values[name] for name in positional if name in values]
    arguments = [str(part) for value in given for part in (value if isinstance(value, list | tuple) else [value])]
    for name, value in values.items():
        if name in positional:
            continue
        option = name.replace("_", "-")
        words = [str(part) for part in value] if isinstance(value, list) else [str(value)]
        if isinstance(value, bool):
            arguments.append(f"--{'' if value else 'no-'}{option}")
        elif len(words) == 1 and words[0].startswith("-"):  # such as a column -logS, which is no option
            arguments.append(f"--{option}={words[0]}")
        else:
            arguments += [f"--{option}", *words]
    return arguments
