"""From the names a user gives to an LLM, its adapter and its layers."""

from dataclasses import dataclass
from pathlib import Path

from kflm2.errors import LLMError, SettingError
from kflm2.llm import adapters, checkpoints, registry
from kflm2.llm.checkpoints import checkpoint_folder
from kflm2.llm.registry import AUTO, EMBEDDED, LLM, LLMS, PLACEBO


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
    # a hub id is owner/name; anything else, and any path, is a mistake to name
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
        checkpoint_folder(large)
    except LLMError as error:
        return embedded, str(error).partition(";")[0]
    return large, "there is CUDA"


@dataclass(frozen=True)
class LLMSource:
    """An LLM, its adapter and its layers: everything states depend on besides the SMILES."""

    name: str
    folder: Path
    adapter: Path | None
    layers: tuple[int, ...]
    """1..depth; the last is after the final norm, 0 the token embeddings."""
    digests: dict[str, str]
    """Of weights, tokenizer and, where there is one, adapter."""

    @staticmethod
    def of(llm: registry.LLM, adapter: Path | None, layers: str) -> "LLMSource":
        """Find an LLM's files and what identifies them; nothing is loaded.

        Args:
            llm: from llm.find.
            adapter: folder of a PEFT adapter, or None for the base LLM.
            layers: see parse_layers.

        Raises:
            LLMError: LLM or adapter cannot be had or do not fit.
            SettingError: no such layer.
        """
        folder = checkpoints.checkpoint_folder(llm)
        digests = checkpoints.checkpoint_digest(folder)
        cut = None
        if adapter is not None:
            adapters.check(adapter, llm, folder)
            digests["adapter"] = adapters.digest(adapter)
            cut = adapters.layers_of(adapter)
        if cut is not None and layers in ("middle", "last"):
            # stage 1 kept the first layers only, and taught the last of these what a molecule is
            return LLMSource(llm.name, folder, adapter, (cut,), digests)
        try:
            chosen = parse_layers(layers, cut or checkpoints.folder_depth(folder))
        except SettingError as error:
            if cut is None:
                raise
            raise SettingError(f"{error}; the adapter keeps no more, --adapter none reads all layers") from None
        return LLMSource(llm.name, folder, adapter, chosen, digests)


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
