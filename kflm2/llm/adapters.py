"""Adapters that stage 1 made, or peft: which one is taken, and whether it fits an LLM."""

import json
from pathlib import Path
from typing import Any

from kflm2.errors import LLMError
from kflm2.files import project_folder
from kflm2.llm.checkpoints import folder_digest
from kflm2.llm.registry import LLM, LLMS

CARD = "kflm2.json"
"""What stage 1 leaves beside an adapter: how it was made."""


def digest(adapter: Path) -> str:
    """Digest of a PEFT adapter's weights and config.

    Raises:
        LLMError: the folder holds no adapter.
    """
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / file).is_file():
            raise LLMError(f"adapter {adapter}: no {file} in it")
    return folder_digest(adapter, ("adapter_config.json", "adapter_model.safetensors"))


def layers_of(adapter: Path) -> int | None:
    """Layers of the LLM that an adapter was made for, where stage 1 cut the LLM to its first ones; None for all."""
    return _card(adapter).get("layers")


def default_adapter(llm: LLM) -> Path | None:
    """The adapter of an LLM that stage 2 takes unless it is told another, of those in models/<LLM>/<corpus>.

    It is the one that was taught most SMILES; None where there is none.
    """
    found = [path.parent for path in (project_folder() / "models" / llm.name).glob("*/adapter_config.json")]
    return max(sorted(found), key=_taught, default=None)


def _taught(adapter: Path) -> int:
    card = _card(adapter)
    return int(card.get("corpus", {}).get("taught", 0)) * int(card.get("config", {}).get("epochs", 0))


def _card(adapter: Path) -> dict[str, Any]:
    path = adapter / CARD
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _is_copy(folder: Path, llm: LLM) -> bool:
    """Whether a folder may hold an LLM of the registry under a name of its own: it has that LLM's shape."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = tuple(config.get(name) for name in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    return llm.shape is not None and sizes == (llm.shape.width, llm.shape.layers, llm.shape.inner)


def check(adapter: Path, llm: LLM, folder: Path) -> None:
    """Refuse an adapter that was made for another LLM, before anything is loaded.

    Raises:
        LLMError: its tensors do not fit the LLM's, or it names another LLM of the registry.
    """
    from safetensors import safe_open

    digest(adapter)
    base = str(json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path") or "")
    owner = next((row.name for row in LLMS.values() if base and base in (row.name, row.hub_id)), llm.name)
    if owner != llm.name and not _is_copy(folder, LLMS[owner]):
        raise LLMError(f"adapter {adapter} was made for the LLM {owner}, not for {llm.name}")
    shapes: dict[str, list[int]] = {}
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, framework="numpy") as weights:
            for key in weights.keys():
                shapes[key.removeprefix("model.")] = weights.get_slice(key).get_shape()
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as weights:
        for key in weights.keys():
            module, _, side = key.removeprefix("base_model.model.").removeprefix("model.").partition(".lora_")
            size = shapes.get(f"{module}.weight")
            axis = {"A.weight": 1, "B.weight": 0}.get(side)
            if axis is None or module == "lm_head":
                continue
            if size is None or size[axis] != weights.get_slice(key).get_shape()[axis]:
                raise LLMError(f"adapter {adapter} was made for another LLM than {llm.name}: {module} does not fit")
