"""A bundle: one folder with all that prediction needs. Nothing in it is a pickle, and none of its files is run.

    bundle.json           what it is: settings, targets, LLM, figures; the SHA-256 of every other file
    weights.safetensors   the models, the scaling of descriptors, the validation part's predictions
    training.csv          SMILES of the training part, for the nearest one
    adapter/              what stage 1 taught the LLM, where it did
    README.md             a card for people

A bundle from elsewhere is data. The names of its files are these, whatever it says; links are refused; sizes are
checked against the file before memory is taken; an LLM is taken from the registry, or from where the user says.
"""

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from kflm2 import __version__
from kflm2.config.train import ModelConfig, TrainConfig, TrainingConfig
from kflm2.data.datasets import Task
from kflm2.errors import KFLM2Error, LLMError, SettingError
from kflm2.featurize.descriptors import DescriptorScaler, rdkit_names
from kflm2.featurize.embeddings import Embedder
from kflm2.featurize.features import Sizes
from kflm2.featurize.graphs import ATOM_FEATURES, BOND_FEATURES
from kflm2.files import atomic, read_json, sha256_file, write_json
from kflm2.llm import adapters, checkpoints, registry, resolve
from kflm2.llm.resolve import LLMSource
from kflm2.metrics.applicability_domain import ApplicabilityDomain
from kflm2.metrics.conformal import Calibration
from kflm2.model import build
from kflm2.trainers.supervised import Ensemble, FittedModel, TargetScaler

FORMAT = 1
_JSON, _WEIGHTS, _TRAINING, _ADAPTER = "bundle.json", "weights.safetensors", "training.csv", "adapter"
_CARD = "README.md"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", adapters.CARD)
_KEPT = (
    *(field.name for field in dataclasses.fields(ModelConfig)),
    *(own.name for own in dataclasses.fields(TrainingConfig) if own.name != "ensemble"),
    *("model", "descriptors", "views", "standardize"),
)
"""Settings on which a prediction depends."""
_HEADS, _HEADS_IN_FILE = "auxiliary_heads.", "voices."
"""A module of FusedModel, and its name in files of format 1, which is older."""
_PROBES = 3
_SAME_STATES = 0.1
"""Relative difference of states up to which two LLMs are the same one; bfloat16 makes about 0.01, another LLM 1."""
_ADAPTER_KEYS = frozenset(
    "base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights lora_alpha lora_dropout peft_type"
    " peft_version r revision target_modules task_type use_rslora".split()
)
"""What a LoRA's config may say to peft. Others, unless they are its defaults, name modules to import or work to do."""


class BundleError(KFLM2Error):
    """A bundle that cannot be used."""


@dataclass(frozen=True)
class Bundle:
    """A trained model with all that prediction needs, in memory."""

    config: TrainConfig
    """Only those that predictions depend on have a meaning."""
    targets: tuple[str, ...]
    unit: str
    task: Task
    ensemble: Ensemble
    source: LLMSource | None
    """The LLM, where one is read."""
    thresholds: np.ndarray
    """(K,) probability from which a molecule is called active; NaN for regression."""
    calibration: Calibration
    domain: ApplicabilityDomain
    made: dict[str, Any]
    """For people: dataset, split, figures, versions."""

    def save(self, folder: Path, card: str) -> None:
        """Write it; the folder is there as a whole or not at all.

        Args:
            folder: see place; a bundle that is there is replaced.
            card: README.md.

        Raises:
            BundleError: something else lies there.
        """
        folder = check_destination(folder)
        temporary = folder.with_name(f".{folder.name}-making")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            self._write(temporary, card)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, folder: Path, card: str) -> None:
        with atomic(folder / _WEIGHTS) as path:
            save_file({name: np.ascontiguousarray(array) for name, array in self._arrays()}, path)
        with atomic(folder / _TRAINING) as path, open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["smiles"], *([smiles] for smiles in self.domain.smiles)])
        if self.source is not None and self.source.adapter is not None:
            (folder / _ADAPTER).mkdir()
            for name in _ADAPTER_FILES:
                if (self.source.adapter / name).is_file():
                    shutil.copyfile(self.source.adapter / name, folder / _ADAPTER / name)
        (folder / _CARD).write_text(card, encoding="utf-8")
        scaler = self.ensemble.members[0].scaler
        about: dict[str, Any] = {
            "format": FORMAT,
            "kflm2": __version__,
            "targets": list(self.targets),
            "unit": self.unit,
            "kind": self.task,
            "config": {name: _plain(getattr(self.config, name)) for name in _KEPT},
            "members": [member.best_epoch for member in self.ensemble.members],
            "sizes": dataclasses.asdict(self.ensemble.sizes),
            "scaler": {"mean": scaler.mean.tolist(), "std": scaler.std.tolist()},
            "thresholds": self.thresholds.tolist() if self.task == "classification" else None,
            "domain": {"least_similarity": self.domain.least_similarity, "most_distance": self.domain.most_distance},
            "llm": _reader(self.source),
            "features": _features(self.config),
            "made": self.made,
            "files": {str(path.relative_to(folder)): sha256_file(path) for path in _files(folder)},
        }
        write_json(folder / _JSON, {**about, "digest": _digest(about)})

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for number, member in enumerate(self.ensemble.members):
            for name, weight in member.model.state_dict().items():
                yield f"member.{number}.{name.replace(_HEADS, _HEADS_IN_FILE)}", weight.cpu().numpy()
        if self.ensemble.scale is not None:
            yield from ((f"descriptors.{name}", own) for name, own in self.ensemble.scale.arrays().items())
        yield from ((f"calibration.{name}", own) for name, own in self.calibration.arrays().items())
        yield "domain.vectors", self.domain.vectors
        if self.source is not None:
            yield "probe", _states(self.source, self.domain.smiles[:_PROBES], torch.device("cpu"))

    @staticmethod
    def load(folder: Path, llm: str | None = None, device: torch.device | None = None) -> "Bundle":
        """Read a bundle, and find the LLM it reads.

        Args:
            folder: of the bundle.
            llm: where the LLM is, for one that is not of the registry; see llm.find.
            device: to predict on; default the CPU.

        Raises:
            BundleError: it is none, damaged, changed, or of a newer format.
            LLMError: its LLM is not here.
        """
        try:
            return _read(folder, _checked(folder), llm, device or torch.device("cpu"))
        except KFLM2Error:
            raise
        except Exception as error:  # a damaged or hostile file makes readers fail in any way
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BundleError(f"bundle {folder} cannot be used: {reason}") from error


def check_destination(folder: Path) -> Path:
    """Where a bundle can be written: a new folder, an empty one, or one that holds a bundle and nothing else.

    Raises:
        BundleError: another one.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder} is a file; a model is kept in a folder")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    known = {_JSON, _WEIGHTS, _TRAINING, _ADAPTER, _CARD} if _JSON in held else set()
    if odd := sorted(held - known):
        raise BundleError(f"{folder} holds {odd[0]}, which is no part of a model; give another folder")
    if folder == Path.cwd():
        raise BundleError(f"{folder} is the folder you are in; give another one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(folder.parent, os.W_OK):
        raise BundleError(f"{folder} cannot be written: its parent folder is closed to you")
    return folder


def _checked(folder: Path) -> dict[str, Any]:
    """bundle.json, once all files are what it says."""
    if not (folder / _JSON).is_file():
        raise BundleError(f"{folder} is no bundle: no {_JSON} in it; make one with kflm2 train ... --save {folder}")
    about = read_json(folder / _JSON, "bundle", BundleError)
    if (folder / _JSON).is_symlink():
        raise BundleError(f"bundle {folder}: {_JSON} is a link; a bundle holds its files itself")
    if type(number := about.get("format")) is not int or not 1 <= number <= FORMAT:
        raise BundleError(
            f"bundle {folder} is of format {number}, made by kflm2 {about.get('kflm2')}; this is kflm2 {__version__},"
            f" which reads format {FORMAT}: update it"
        )
    if about.get("digest") != _digest({name: value for name, value in about.items() if name != "digest"}):
        raise BundleError(f"bundle {folder}: {_JSON} was changed: its digest is another")
    said, found = about.get("files", {}), list(_files(folder))
    for path in found:
        name = path.relative_to(folder).as_posix()
        # what a link points to lies elsewhere, and is none of the bundle's business
        if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"bundle {folder}: {name} is a link; a bundle holds its files itself")
        if said.get(name) != sha256_file(path):
            raise BundleError(f"bundle {folder}: {name} was changed: its digest is another")
    if lost := sorted(set(said) - {path.relative_to(folder).as_posix() for path in found}):
        raise BundleError(f"bundle {folder}: {lost[0]} is missing")
    return about


def _read(folder: Path, about: dict[str, Any], llm: str | None, device: torch.device) -> Bundle:
    """The bundle of a bundle.json that is as it was written; whatever it says is checked once, here."""
    stored = about["config"]
    values: dict[str, Any] = {name: _unplain(name, stored[name]) for name in _KEPT if name in stored}
    config = TrainConfig(**values)
    config.check_model()
    config.check_training()
    if (made_of := about["features"]) != _features(config):
        raise BundleError(
            f"bundle {folder} was made with other features than these (RDKit {made_of.get('rdkit')} there,"
            f" {version('rdkit')} here); train it again, or predict with that release"
        )
    task: Task = about["kind"]
    if task not in ("regression", "classification"):
        raise BundleError(f"bundle {folder}: unknown kind {task!r}")
    arrays = load_file(folder / _WEIGHTS)
    sizes = Sizes(**about["sizes"])
    targets = tuple(map(str, about["targets"]))
    scaler = TargetScaler.of(*(_finite(about["scaler"][name], (len(targets),)) for name in ("mean", "std")))
    if not targets or not about["members"]:
        raise BundleError(f"bundle {folder} has no target or no model")
    members = []
    for number, epoch in enumerate(about["members"]):
        # without memory: what a bundle says of its sizes is believed once its file has the weights for them
        with torch.device("meta"):
            model = build(config.model, sizes, len(targets), config)
        weights = {
            name.replace(_HEADS_IN_FILE, _HEADS): torch.from_numpy(array)
            for name, array in _under(arrays, f"member.{number}.").items()
        }
        model.load_state_dict(weights, assign=True)
        members.append(FittedModel(model.to(device).eval(), scaler, task, device, int(epoch)))
    scale = DescriptorScaler.of(_under(arrays, "descriptors.")) if sizes.descriptors else None
    with open(folder / _TRAINING, encoding="utf-8", newline="") as file:
        smiles = [row["smiles"] for row in csv.DictReader(file)]
    bounds = (float(about["domain"][name]) for name in ("least_similarity", "most_distance"))
    domain = ApplicabilityDomain(smiles, _finite(arrays["domain.vectors"], (len(smiles), config.hidden)), *bounds)
    known = _under(arrays, "calibration.")
    shape = (len(known["y_true"]), len(targets))
    calibration = Calibration(
        task, known["y_true"].reshape(shape), _finite(known["y_pred"], shape), _finite(known["spread"], shape)
    )
    source = _source(folder, about["llm"], llm) if about["llm"] else None
    if source is not None:
        _same_llm(source, about["llm"], smiles[:_PROBES], arrays["probe"], device)
    thresholds = np.full(len(targets), np.nan)
    if task == "classification":
        thresholds = _finite(about["thresholds"], (len(targets),))
    return Bundle(
        config=config,
        targets=targets,
        unit=str(about["unit"]),
        task=task,
        ensemble=Ensemble(members, scale, sizes),
        source=source,
        thresholds=thresholds,
        calibration=calibration,
        domain=domain,
        made=about["made"],
    )


def _finite(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a shape.

    Raises:
        ValueError: they are not.
    """
    array = np.asarray(values, dtype=float)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"its numbers are damaged: {array.shape}, where {shape} are needed, all finite")
    return array


def _source(folder: Path, about: dict[str, Any], llm: str | None) -> LLMSource:
    """The LLM on this machine; only of the registry is one taken without being asked for."""
    name, hub = str(about["name"]), str(about.get("hub_id") or "")
    if llm is None and (name not in registry.LLMS or not checkpoints.is_here(registry.LLMS[name])):
        # nothing is fetched because a folder from elsewhere says so, nor is what it says printed as it is
        where = hub if re.fullmatch(r"[\w.-]+/[\w.-]+", hub) else "and the folder or file that it was loaded from"
        where = name if name in registry.LLMS else where
        raise LLMError(f"bundle {folder} reads the LLM {name!r}, which is not here; say --llm {where}")
    adapter = folder / _ADAPTER if (folder / _ADAPTER).is_dir() else None
    if adapter is not None:
        _check_adapter(adapter)
    try:
        return LLMSource.of(resolve.find(llm or name), adapter, ",".join(map(str, about["layers"])))
    except (LLMError, SettingError) as error:
        raise LLMError(f"bundle {folder} reads the LLM {name!r}, which is not here: {error}") from None


def _check_adapter(adapter: Path) -> None:
    from peft import LoraConfig

    config, plain = read_json(adapter / "adapter_config.json", "adapter", BundleError), LoraConfig().to_dict()
    if config.get("peft_type") != "LORA":
        raise BundleError(f"adapter {adapter}: not a LoRA adapter")
    odd = (name for name, value in config.items() if name not in _ADAPTER_KEYS and value and value != plain.get(name))
    if name := next(odd, None):
        raise BundleError(f"adapter {adapter}: its config asks for {name}, which a kept model's adapter must not")
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as weights:
        ranks = {weights.get_slice(key).get_shape()[0] for key in weights.keys() if ".lora_A." in key}
    modules = config.get("target_modules")
    plain_names = isinstance(modules, list) and all(re.fullmatch(r"[\w.]+", str(name)) for name in modules)
    if {config.get("r")} != ranks or not plain_names or not isinstance(config.get("init_lora_weights"), bool):
        raise BundleError(f"adapter {adapter}: its config says otherwise than its weights")


def _same_llm(
    source: LLMSource, about: dict[str, Any], smiles: list[str], known: np.ndarray, device: torch.device
) -> None:
    """Refuse an LLM that reads molecules otherwise than the one the models were trained with."""
    states = _states(source, smiles, device)
    if states.shape == known.shape:
        difference = float(np.linalg.norm(states - known) / np.linalg.norm(known))
        if difference <= _SAME_STATES:
            return
    raise LLMError(
        f"the LLM {source.name} here is not the one the bundle was made with, {about['name']!r}, weights"
        f" {str(about['weights'])[:12]!r}: it reads {smiles[0]!r} otherwise"
    )


def _states(source: LLMSource, smiles: list[str], device: torch.device) -> np.ndarray:
    """(n, D) mean states of a few molecules."""
    return Embedder(source, device).compute(smiles, "mean").values


def _reader(source: LLMSource | None) -> dict[str, Any] | None:
    if source is None:
        return None
    own = registry.LLMS.get(source.name)
    hub = own.hub_id if own else source.name.replace("--", "/") if "--" in source.name else ""
    return {"name": source.name, "hub_id": hub, **source.digests, "layers": list(source.layers)}


def _features(config: TrainConfig) -> dict[str, Any]:
    """What the views mean; another release of RDKit may have other descriptors."""
    found: dict[str, Any] = {}
    if "graph" in config.read_views:
        found |= {"atoms": list(ATOM_FEATURES), "bonds": list(BOND_FEATURES)}
    if "rdkit" in config.descriptors and "descriptors" in config.read_views:
        found |= {"descriptors": list(rdkit_names()), "rdkit": version("rdkit")}
    return found


def _files(folder: Path) -> Iterator[Path]:
    """The files that count, of those a bundle may have."""
    names = (_WEIGHTS, _TRAINING, *(f"{_ADAPTER}/{name}" for name in _ADAPTER_FILES))
    return (path for name in names if (path := folder / name).is_file() or path.is_symlink())


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


_HINTS = get_type_hints(TrainConfig)


def _unplain(name: str, value: object) -> object:
    hint, kind = _HINTS[name], type(getattr(TrainConfig(), name))
    if kind is tuple and isinstance(value, list):
        return tuple(map(str, value))
    known = get_origin(hint) is not Literal or value in get_args(hint)
    kinds = (float, int) if kind is float else (kind,)  # an int will do for a float
    if not known or isinstance(value, bool) != (kind is bool) or not isinstance(value, kinds):
        raise SettingError(f"bundle: setting {name} is {value!r}")
    return value


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
