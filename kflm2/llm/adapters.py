"""LoRA adapters, written by stage 1 or by peft: choice of the default one, and the check that it fits an LLM."""

import json
from pathlib import Path
from typing import Any

from kflm2 import resources
from kflm2.errors import LLMError
from kflm2.files import project_folder
from kflm2.llm.checkpoints import folder_digest
from kflm2.llm.registry import LLM, LLMS

HEAD = "knowledge_head.safetensors"
"""File beside an adapter: the head that predicts what the LLM learnt beside SMILES."""
CARD = "kflm2.json"
"""File beside an adapter, in which stage 1 records how the adapter was trained."""


def digest(adapter: Path) -> str:
    """Digest of a PEFT adapter's weights and config.

    Raises:
        LLMError: there is no adapter in the folder.
    """
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / file).is_file():
            raise LLMError(f"adapter {adapter}: no {file} in it")
    return folder_digest(adapter, ("adapter_config.json", "adapter_model.safetensors"))


def layers_of(adapter: Path) -> int | None:
    """Number of layers an adapter was trained on, if stage 1 cut the LLM to its first layers; None for all."""
    return _card(adapter).get("layers")


def default_adapter(llm: LLM) -> Path | None:
    """The default adapter of an LLM; None if there is none.

    An adapter in the project's models/<LLM>/<corpus> takes precedence over the packaged one; of several, the one
    trained on most SMILES is used.
    """
    for models in (project_folder() / "models", resources.packaged("models")):
        if adapters := [path.parent for path in (models / llm.name).glob("*/adapter_config.json")]:
            return max(sorted(adapters), key=_trained_smiles)
    return None


def packaged(llm: str, wanted: str) -> Path | None:
    """The adapter of an LLM of the registry that comes with the package and has a digest; None if there is none."""
    if llm not in LLMS:  # the name may come from an untrusted file, and is part of a path
        return None
    folders = sorted(path.parent for path in (resources.packaged("models") / llm).glob("*/adapter_config.json"))
    return next((folder for folder in folders if digest(folder) == wanted), None)


def _trained_smiles(adapter: Path) -> int:
    card = _card(adapter)
    return int(card.get("corpus", {}).get("taught", 0)) * int(card.get("config", {}).get("epochs", 0))


def _card(adapter: Path) -> dict[str, Any]:
    path = adapter / CARD
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _is_copy(folder: Path, llm: LLM) -> bool:
    """Whether a folder can be a copy of an LLM of the registry under another name: the sizes are the same."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = tuple(config.get(name) for name in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    return llm.shape is not None and sizes == (llm.shape.width, llm.shape.layers, llm.shape.inner)


def check(adapter: Path, llm: LLM, folder: Path) -> None:
    """Check that an adapter was made for an LLM, before anything is loaded.

    Raises:
        LLMError: its tensors do not fit the LLM, or its config names another LLM of the registry.
    """
    from safetensors import safe_open

    digest(adapter)
    base = str(json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path") or "")
    base_llm = next((row.name for row in LLMS.values() if base and base in (row.name, row.hub_id)), llm.name)
    if base_llm != llm.name and not _is_copy(folder, LLMS[base_llm]):
        raise LLMError(f"adapter {adapter} was made for the LLM {base_llm}, not for {llm.name}")
    shapes: dict[str, list[int]] = {}
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, framework="numpy") as weights:
            for key in weights.keys():
                shapes[key.removeprefix("model.")] = weights.get_slice(key).get_shape()
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as weights:
        for key in weights.keys():
            module, _, matrix = key.removeprefix("base_model.model.").removeprefix("model.").partition(".lora_")
            shape = shapes.get(f"{module}.weight")
            axis = {"A.weight": 1, "B.weight": 0}.get(matrix)
            if axis is None or module == "lm_head":
                continue
            if shape is None or shape[axis] != weights.get_slice(key).get_shape()[axis]:
                raise LLMError(f"adapter {adapter} was made for another LLM than {llm.name}: {module} does not fit")
