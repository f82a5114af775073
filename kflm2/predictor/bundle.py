"""A bundle: one folder with everything that prediction needs. It has no pickle, and none of its files is executed.

    bundle.json           settings, targets, LLM, metrics; what RDKit computed for some molecules, to recognize other
                          releases of it; the SHA-256 of every other file
    weights.safetensors   weights of the models, scaling of descriptors, voters, predictions on the validation part
    training.csv          SMILES of what the models learnt from, to find the nearest training molecule
    adapter/              the LLM's adapter from stage 1, if there is one, and its head, if the models read it
    README.md             a card for people

One that was packed (see `pack`) has no training.csv, and no adapter/ where the adapter comes with kflm2; its weights
are in half precision.

A bundle from elsewhere is untrusted data; kflm2.predictor.bundle_reader checks and reads it.
"""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from kflm2 import __version__
from kflm2.config.train import ModelConfig, TrainConfig, TrainingConfig
from kflm2.data.datasets import Task
from kflm2.data.similarity import pack_bits
from kflm2.data.structures import structure_digests
from kflm2.featurize import descriptors, graphs, minimol, xtb
from kflm2.featurize.average_atom import AverageAtom
from kflm2.featurize.covariate_scaler import CovariateScaler
from kflm2.featurize.descriptors import rdkit_names
from kflm2.featurize.embeddings import Embedder
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import ATOM_FEATURES, BOND_FEATURES
from kflm2.featurize.taught import KnowledgeHead, find_head, names_of
from kflm2.files import atomic, atomic_folder, read_json, sha256_file, write_json
from kflm2.llm import adapters, registry
from kflm2.llm.resolve import LLMSource
from kflm2.metrics.applicability_domain import ApplicabilityDomain
from kflm2.metrics.conformal import Calibration
from kflm2.predictor.manifest import JSON, BundleError, smiles_column
from kflm2.predictor.rdkit_values import rdkit_release, rdkit_values
from kflm2.trainers.baseline import baseline_columns
from kflm2.trainers.supervised import Ensemble

FORMAT = 8
"""2: models of principal components keep them, and the record of the LLM has its precision. 3: models of inner folds,
each with its own scaling of the targets, and voters. 4: xTB's numbers among the descriptors, and a ridge baseline. 5:
columns beside the structure. 6: Morgan counts without their zeros; packed models. 7: voters of one machine. 8: a
forest as a voter."""
WEIGHTS, TRAINING, ADAPTER, CARD = "weights.safetensors", "training.csv", "adapter", "README.md"
"""Names in the folder."""
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", adapters.CARD)
SAVED_SETTINGS = (
    *(field.name for field in dataclasses.fields(ModelConfig)),
    *(field.name for field in dataclasses.fields(TrainingConfig) if field.name not in ("ensemble", "jobs")),
    *("model", "descriptors", "views", "standardize", "feature_columns"),
)
"""Settings on which a prediction depends."""
LEARNT_BEFORE = "learnt_before"
"""In what a bundle says of its making: digests of the structures that the model which it goes on from had learnt; in a
packed bundle also of its own."""
HEADS, HEADS_IN_FILE = "auxiliary_heads.", "voices."
"""A module of FusedModel, and its older name in files of format 1."""
PROBES = 3
"""Training molecules whose hidden states are saved, to recognize the LLM."""
PROBE_SMILES = ("CC(=O)Oc1ccccc1C(=O)O", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "CC(C)Cc1ccc(cc1)C(C)C(=O)O")
"""Molecules for the same, in a model without its training molecules: aspirin, caffeine, ibuprofen."""


@dataclass(frozen=True)
class Bundle:
    """A trained model with everything that prediction needs, in memory."""

    config: TrainConfig
    """Only the settings on which predictions depend are meaningful."""
    targets: tuple[str, ...]
    unit: str
    task: Task
    ensemble: Ensemble
    source: LLMSource | None
    """The LLM; None for a model without one."""
    thresholds: np.ndarray
    """(K,) probability from which a molecule is predicted active; NaN for regression."""
    calibration: Calibration
    domain: ApplicabilityDomain
    provenance: dict[str, Any]
    """For people: dataset, split, metrics, versions."""
    average: AverageAtom | None = None
    """Of the molecules that were learnt from, where their SMILES are not in the bundle."""
    opened: Embedder | None = None
    """The source with its LLM in memory, where a bundle was read, which loads the LLM to check it."""
    rdkit: dict[str, Any] | None = None
    """rdkit_values of the RDKit that it was trained with, where a bundle was read that holds them."""

    def scale_features(self, features: Features) -> Features:
        """Features with descriptors as computed, and covariates as read, to the input of the models."""
        return self.ensemble.scale_features(features, baseline_columns(self.config, self.descriptor_names))

    @property
    def covariates(self) -> CovariateScaler | None:
        """What reads the columns beside the structure; None where the models read none."""
        return self.ensemble.covariate_scaler

    def head(self) -> KnowledgeHead | None:
        """What reads descriptors off the LLM's states; None where the models read none of them."""
        return find_head(self.source) if "taught" in self.config.read_descriptors else None

    @cached_property
    def descriptor_names(self) -> tuple[str, ...]:
        """Names of the descriptors' columns."""
        return names_of(self.config.read_descriptors, self.source)

    @property
    def packed(self) -> bool:
        """Whether it has no SMILES of what the models learnt from."""
        return not self.domain.smiles

    @property
    def brings_adapter(self) -> bool:
        """Whether the adapter that the models read is in the bundle's folder."""
        if self.source is None or self.source.adapter is None:
            return False
        # the digest is of the adapter without its head
        if not self.packed or self.head() is not None:
            return True
        return adapters.packaged(self.source.name, self.source.digests["adapter"]) is None

    def average_atom(self) -> AverageAtom:
        """Mean features of atoms and bonds of the molecules that were learnt from."""
        return AverageAtom.of(self.domain.smiles) if self.average is None else self.average

    def pack(self) -> "Bundle":
        """The same models to be given away: smaller, and without the SMILES that they learnt from.

        That hides no secret. Fingerprints of these molecules stay, by which the similarity to the nearest of them is
        found, digests of their structures, and the numbers that the support vector machines read of them: a structure
        could be guessed from these. Labels are not stored as such, but the coefficients of a support vector machine and
        the leaves of a forest give most of them away.

        Raises:
            BundleError: it does not say rightly how it was made.
        """
        if self.packed:
            return self
        before = self.provenance.get(LEARNT_BEFORE, [])
        if not isinstance(before, list):
            raise BundleError(f"the bundle does not say rightly how it was made: {LEARNT_BEFORE} is {before!r}")
        learnt = {*structure_digests(self.domain.smiles), *map(str, before)}
        return dataclasses.replace(
            self,
            domain=self.domain.without_smiles(),
            calibration=self.calibration.anonymous(),
            average=self.average_atom(),
            provenance={**self.provenance, LEARNT_BEFORE: sorted(learnt)},
        )

    @property
    def smiles_column(self) -> str:
        """The column of SMILES of the table that the model was trained on."""
        return smiles_column(self.provenance)

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """Of each target the words of class 0 and of class 1."""
        made = self.provenance.get("dataset")
        words = made.get("classes") if isinstance(made, dict) else None
        if not isinstance(words, list) or len(words) != len(self.targets):
            words = []
        pairs = [tuple(map(str, pair)) if isinstance(pair, list) else () for pair in words]
        return tuple((pair[0], pair[1]) if len(pair) == 2 else ("0", "1") for pair in pairs or [()] * len(self.targets))

    @property
    def class_1(self) -> dict[str, str]:
        """Target -> the word of class 1, of which its column has the probability; only of targets that have words."""
        if self.task == "regression":
            return {}
        pairs = zip(self.targets, self.classes, strict=True)
        return {target: word for target, (_, word) in pairs if word != "1"}

    def embedder(self, device: torch.device) -> Embedder | None:
        """What computes the states that the models read; None for models without an LLM."""
        if self.source is None or (self.opened is not None and self.opened.device == device):
            return self.opened
        return Embedder(self.source, device)

    def save(self, folder: Path, card: str) -> None:
        """Write the bundle; the folder is complete or absent.

        Args:
            folder: see check_destination; an existing bundle is replaced.
            card: text of README.md.

        Raises:
            BundleError: the folder has other content.
        """
        with atomic_folder(check_destination(folder)) as temporary:
            self._write(temporary, card)

    def _write(self, folder: Path, card: str) -> None:
        with atomic(folder / WEIGHTS) as path:
            save_file({name: np.ascontiguousarray(array) for name, array in self._arrays()}, path)
        if not self.packed:
            with atomic(folder / TRAINING) as path, open(path, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["smiles"], *([smiles] for smiles in self.domain.smiles)])
        if self.brings_adapter:
            assert self.source is not None and self.source.adapter is not None
            (folder / ADAPTER).mkdir()
            for name in (*_ADAPTER_FILES, *((adapters.HEAD,) if self.head() else ())):
                if (self.source.adapter / name).is_file():
                    shutil.copyfile(self.source.adapter / name, folder / ADAPTER / name)
        (folder / CARD).write_text(card, encoding="utf-8")
        metadata: dict[str, Any] = {
            "format": FORMAT,
            "kflm2": __version__,
            "targets": list(self.targets),
            "unit": self.unit,
            "kind": self.task,
            "config": {name: _json_value(getattr(self.config, name)) for name in SAVED_SETTINGS},
            "members": [member.best_epoch for member in self.ensemble.all_members],
            "sizes": dataclasses.asdict(self.ensemble.sizes),
            "scalers": [
                {"mean": member.scaler.mean.tolist(), "std": member.scaler.std.tolist()}
                for member in self.ensemble.all_members
            ],
            "thresholds": self.thresholds.tolist() if self.task == "classification" else None,
            "domain": {
                "least_similarity": self.domain.least_similarity,
                "most_distance": self.domain.most_distance,
                **({} if self.domain.elements is None else {"elements": sorted(self.domain.elements)}),
            },
            **({} if self.covariates is None else {"covariates": self.covariates.to_json()}),
            "llm": _llm_record(self.source),
            "features": feature_names(self.config, self.packed),
            # of a model that was read, what the RDKit computed that it was trained with
            "rdkit": {**rdkit_values(self.config, self.packed), **(self.rdkit or {})},
            "made": self.provenance,
            "files": {path.relative_to(folder).as_posix(): sha256_file(path) for path in bundle_files(folder)},
        }
        write_json(folder / JSON, {**metadata, "digest": _digest(metadata)})

    def _arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of weights.safetensors, by name; of a packed bundle those that make it large are rounded."""
        for name, array in self._full_arrays():
            # vectors are small, and may be scales of any size
            large = (name.startswith("member.") and array.ndim > 1) or name.endswith((".numbers", "domain.vectors"))
            yield name, _half(array) if self.packed and large else array

    def _full_arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        for i, member in enumerate(self.ensemble.all_members):
            for name, weight in member.model.state_dict().items():
                yield f"member.{i}.{name.replace(HEADS, HEADS_IN_FILE)}", weight.cpu().numpy()
        if self.ensemble.descriptor_scaler is not None:
            for name, array in self.ensemble.descriptor_scaler.arrays().items():
                yield f"descriptors.{name}", array
        for prefix, models in (("", self.ensemble), ("delta.", self.ensemble.delta)):
            if models is None:
                continue
            for voter in models.voters:
                for name, array in voter.arrays().items():
                    yield f"{prefix}voter.{voter.name}.{name}", array
            if models.baseline is not None:
                for name, array in models.baseline.arrays().items():
                    yield f"baseline.{name}", array
        if self.ensemble.weights is not None:
            yield "ensemble.weights", self.ensemble.weights
        for name, array in self.calibration.arrays().items():
            yield f"calibration.{name}", array
        yield "domain.vectors", self.domain.vectors
        if self.packed:
            yield "domain.prints", pack_bits(self.domain.prints)
            for part in ("atom", "bond"):
                yield f"average.{part}", getattr(self.average_atom(), part).astype(np.float32)
        if self.source is not None:
            yield "probe", probe_states(Embedder(self.source, torch.device("cpu")), self.domain.smiles)


def check_destination(folder: Path) -> Path:
    """Check that a bundle can be written: to a new folder, an empty one, or one with a bundle and nothing else.

    Returns:
        The absolute path.

    Raises:
        BundleError: any other folder.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder} is a file; a model is kept in a folder")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    allowed = {JSON, WEIGHTS, TRAINING, ADAPTER, CARD} if JSON in present else set()
    if unknown := sorted(present - allowed):
        raise BundleError(f"{folder} holds {unknown[0]}, which is no part of a model; give another folder")
    if folder == Path.cwd():
        raise BundleError(f"{folder} is the folder you are in; give another one")
    if os.path.ismount(folder):
        raise BundleError(f"{folder} is a file system of its own, which cannot be replaced; give a folder in it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(folder.parent, os.W_OK):
        raise BundleError(f"{folder} cannot be written: its parent folder is closed to you")
    return folder


def saved_as(folder: Path) -> dict[str, Any] | None:
    """What a folder's bundle says of how it was made, {} for nothing; None where there is no bundle.

    Raises:
        BundleError: bundle.json cannot be read.
    """
    return read_json(folder / JSON, "bundle", BundleError).get("made", {}) if (folder / JSON).is_file() else None


def probe_states(embedder: Embedder, smiles: list[str]) -> np.ndarray:
    """(PROBES, D) mean hidden states of the first training molecules; where these are unknown, of other molecules."""
    return embedder.embed_uncached(smiles[:PROBES] or list(PROBE_SMILES), "mean").values


def _half(array: np.ndarray) -> np.ndarray:
    """In float16, or in float32 where that changes a number by more than a thousandth of the largest."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    close = np.abs(half - array).max(initial=0) <= 1e-3 * np.abs(array).max(initial=0)
    return half if close else array.astype(np.float32)


def feature_names(config: TrainConfig, packed: bool) -> dict[str, Any]:
    """Names and versions of the input features, with RDKit's release where that may matter.

    Args:
        config: of the model.
        packed: whether it has fingerprints instead of SMILES.
    """
    names: dict[str, Any] = {"rdkit": rdkit_release()} if packed else {}
    if "graph" in config.read_views:
        names |= {"atoms": list(ATOM_FEATURES), "bonds": list(BOND_FEATURES), "graph_version": graphs.VERSION}
    if "xtb" in config.read_descriptors:
        names |= {"xtb": list(xtb.XTB_COLUMNS), "xtb_version": xtb.VERSION, "rdkit": rdkit_release()}
    if "rdkit" in config.read_descriptors:
        names |= {"descriptors": list(rdkit_names()), "descriptors_version": descriptors.VERSION}
        names["rdkit"] = rdkit_release()
    if config.reads_counts:
        names |= {"counts": [descriptors.MORGAN_RADIUS, descriptors.MORGAN_BITS], "rdkit": rdkit_release()}
    if "minimol" in config.read_voters:
        names |= {"minimol": minimol.package_version(), "minimol_version": minimol.VERSION, "rdkit": rdkit_release()}
    return names


def bundle_files(folder: Path) -> Iterator[Path]:
    """The files that have a SHA-256 in bundle.json, links included, as far as they exist."""
    names = (WEIGHTS, TRAINING, *(f"{ADAPTER}/{name}" for name in (*_ADAPTER_FILES, adapters.HEAD)))
    return (path for name in names if (path := folder / name).is_file() or path.is_symlink())


def _digest(metadata: dict[str, Any]) -> str:
    """SHA-256 of bundle.json without the digest itself."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _llm_record(source: LLMSource | None) -> dict[str, Any] | None:
    if source is None:
        return None
    llm = registry.LLMS.get(source.name)
    hub_id = llm.hub_id if llm else source.name.replace("--", "/") if "--" in source.name else ""
    return {
        "name": source.name,
        "hub_id": hub_id,
        **source.digests,
        "layers": list(source.layers),
        "precision": source.precision,
    }


def _json_value(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
