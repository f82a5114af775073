"""From the names that a user gives to an LLM, its adapter and the layers that are read."""

from dataclasses import dataclass
from pathlib import Path

from kflm2.errors import LLMError, SettingError
from kflm2.llm import adapters, checkpoints
from kflm2.llm.registry import AUTO, EMBEDDED, LLM, LLMS, PLACEBO

PRECISIONS = ("float32", "bfloat16", "mixed")


@dataclass(frozen=True)
class LLMSource:
    """An LLM, its adapter and its layers: everything that hidden states depend on besides the SMILES."""

    name: str
    folder: Path
    """Of the checkpoint, on this machine."""
    adapter: Path | None
    layers: tuple[int, ...]
    """1..depth; the last is after the final norm, 0 the token embeddings."""
    digests: dict[str, str]
    """Of weights, tokenizer and, where there is one, adapter."""
    hub_id: str = ""
    """On the Hugging Face hub, where it comes from there."""
    precision: str = "float32"
    """float32, bfloat16 or mixed; see kflm2.llm.loading.load."""

    def __str__(self) -> str:
        return f"{self.name}, layers {', '.join(map(str, self.layers))}, precision {self.precision}"

    @staticmethod
    def of(llm: LLM, adapter: Path | None, layers: str, precision: str = "float32") -> "LLMSource":
        """Find an LLM's files and their digests; nothing is loaded.

        Args:
            llm: see find.
            adapter: folder of a PEFT adapter, or None for the base LLM.
            layers: see parse_layers.
            precision: of the states.

        Raises:
            LLMError: LLM or adapter is not available, or they do not fit together.
            SettingError: no such layer.
        """
        folder = checkpoints.checkpoint_folder(llm)
        digests = checkpoints.checkpoint_digest(folder)
        adapter_depth = None
        if adapter is not None:
            adapters.check(adapter, llm, folder)
            digests["adapter"] = adapters.digest(adapter)
            adapter_depth = adapters.layers_of(adapter)
        if adapter_depth is not None and layers in ("middle", "last"):
            # stage 1 kept the first layers only, and trained the last of these to represent molecules
            return LLMSource(llm.name, folder, adapter, (adapter_depth,), digests, llm.hub_id, precision)
        try:
            read = parse_layers(layers, adapter_depth or checkpoints.folder_depth(folder))
        except SettingError as error:
            if adapter_depth is None:
                raise
            raise SettingError(f"{error}; the adapter keeps no more, --adapter none reads all layers") from None
        return LLMSource(llm.name, folder, adapter, read, digests, llm.hub_id, precision)


def resolve(
    llm: str, adapter: str, layers: str, base_only: str = "", precision: str = LLMSource.precision
) -> LLMSource:
    """What the settings llm, adapter and layers name; what `auto` takes is printed.

    Args:
        llm: see find.
        adapter: auto, none, or the folder of a PEFT adapter.
        layers: see parse_layers.
        base_only: name of a pipeline that reads the base LLM always, so that no adapter may be asked for.
        precision: of the hidden states.

    Raises:
        LLMError: LLM or adapter is not available, or they do not fit together.
        SettingError: no such layer.
    """
    chosen = choose(llm)
    path = None
    if base_only:
        if adapter not in ("auto", "none"):
            raise LLMError(f"{base_only} reads the base LLM always; --adapter {adapter} cannot be used")
    elif adapter == "auto":
        path = adapters.default_adapter(chosen)
        print(f"adapter: {path or f'none found for {chosen.name}, the base LLM is used'}", flush=True)
    elif adapter != "none":
        path = Path(adapter)
    return LLMSource.of(chosen, path, layers, precision)


def choose(name: str) -> LLM:
    """The LLM of a name, see find; what `auto` takes is printed."""
    if name != AUTO:
        return find(name)
    llm, reason = auto()
    print(f"LLM: auto takes {llm.name} ({reason})", flush=True)
    return llm


def find(name: str) -> LLM:
    """The LLM of a name: a registry row, `auto`, a folder, a .gguf file or a Hugging Face id.

    Raises:
        LLMError: none of these; the message lists the choices.
    """
    if name == AUTO:
        return auto()[0]
    for row in LLMS.values():
        if name and name in (row.name, row.hub_id):
            return row
    if name.startswith(PLACEBO):
        base = find(name.removeprefix(PLACEBO))
        return LLM(f"{base.name}_random", placebo_of=base)
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return LLM(path.stem, gguf=path)
    if name and path.is_dir():
        return LLM(path.resolve().name, folder=path)
    # a hub id is owner/name; anything else, and any path, is a mistake that is named
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith(".gguf"):
        return LLM(name.replace("/", "--"), hub_id=name)
    raise LLMError(
        f"unknown LLM {name!r}; choose {AUTO}, one of {', '.join(LLMS)}, a folder with a checkpoint, a .gguf file,"
        f" a Hugging Face id (owner/name), or {PLACEBO} and one of these"
    )


def auto() -> tuple[LLM, str]:
    """What `auto` means on this machine, and why: DS_1.5B with CUDA, where it can be had, else the embedded LLM."""
    import torch

    embedded = LLMS[EMBEDDED]
    if not torch.cuda.is_available():
        return embedded, "there is no CUDA"
    large = LLMS["DS_1.5B"]
    try:
        checkpoints.checkpoint_folder(large)
    except LLMError as error:
        return embedded, str(error).partition(";")[0]
    return large, "there is CUDA"


def parse_layers(text: str, depth: int) -> tuple[int, ...]:
    """Layers of an LLM from a setting: `middle`, `last`, `fifths` or numbers such as `6,12,-1`.

    `middle` is the one two fifths of the way up, `fifths` are five, evenly spaced, the last among them.

    Raises:
        SettingError: not a layer of an LLM with this depth.
    """
    if text == "middle":
        return (max(1, round(depth * 2 / 5)),)
    if text == "last":
        return (depth,)
    if text == "fifths":
        return tuple(dict.fromkeys(max(1, round(depth * fifth / 5)) for fifth in range(1, 6)))
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        raise SettingError(f"layers {text!r}: give middle, last, fifths, or numbers such as 6,12,-1") from None
    layers = tuple(number + depth + 1 if number < 0 else number for number in numbers)
    if any(not 0 <= layer <= depth for layer in layers) or len(set(layers)) < len(layers):
        raise SettingError(f"layers {text!r}: each must be one of 0 to {depth}, or -1 for the last, once")
    return layers
