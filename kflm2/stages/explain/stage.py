"""Explanations of predictions: for each molecule a picture and a table of attributions."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from kflm2.config.explain import ExplainConfig
from kflm2.data.molecules import parse_smiles
from kflm2.data.structures import standard_smiles
from kflm2.device import choose_device
from kflm2.errors import DataError, MoleculeError, one_of
from kflm2.featurize.descriptors import descriptors_and_counts, without
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import graphs_of
from kflm2.featurize.minimol import UNREADABLE, compute_uncached
from kflm2.featurize.ragged import Ragged
from kflm2.featurize.taught import with_taught
from kflm2.files import atomic, read_json, write_csv, write_json, write_text
from kflm2.plotting import save_figure
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.featurizer import OK
from kflm2.predictor.predictor import TOO_LONG
from kflm2.predictor.readers import reader_of
from kflm2.stages.explain import plots
from kflm2.stages.explain.attribution import (
    VIEWS,
    VOTERS,
    Attribution,
    attention,
    explain_all,
)
from kflm2.stages.explain.meanings import meaning
from kflm2.stages.explain.plots import Explanation
from kflm2.trainers.baseline import baseline_columns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JSON = "explained.json"
_PICTURE = re.compile(r"\d{3,}(\.svg|\.png|-attention\.png)")
_SMILES_LENGTH, _TARGET_LENGTH = 40, 36
"""Largest numbers of printed characters."""
_COLUMNS = ("row", "smiles", "name", "kind", "index", "label", "attribution", "meaning")


def run(config: ExplainConfig) -> int:
    """Explain molecules, one after another.

    Args:
        config: checked.

    Returns:
        Number of molecules without a prediction.

    Raises:
        KFLM2Error: model or input cannot be used.
    """
    device = choose_device(config.device)
    reader = reader_of(config)
    bundle = load_bundle(config.model, config.llm, device)
    explainer = Explainer(bundle, config.target, config.steps, device)
    if explainer.class_1 or len(bundle.targets) > 1:
        of = f", log-odds of {explainer.class_1}" if explainer.class_1 else ""
        print(f"      {bundle.targets[explainer.target]}{of}", flush=True)
    limit = None if reader.format == "words" else config.limit
    _clear(config.out)
    frames, records = [pd.DataFrame(columns=list(_COLUMNS))], []
    rows = reader.rows()
    for number, row in enumerate(itertools.islice(rows, limit), start=1):
        record = {"row": number, "name": row.name, "smiles": ""}
        try:
            record["smiles"] = reader.smiles(row)
            explanation, maps = explainer.explain(str(record["smiles"]), row.name if reader.named else "", row.features)
        except MoleculeError as error:
            print(f"{number:>4}  no prediction: {error}", flush=True)
            records.append({**record, "status": str(error)})
            continue
        files = _draw(explanation, maps, config.out / f"{number:03d}")
        frames.append(_table(number, explanation))
        values = explained_values(explanation)
        records.append({**record, "smiles": explanation.smiles, "status": OK, **values, "files": files})
        print(f"{number:>4}  {_line(explanation)}", flush=True)
    write_csv(config.out / "attributions.csv", pd.concat(frames, ignore_index=True))
    write_json(config.out / _JSON, {**explainer.about(), "molecules": records})
    if next(rows, None) is not None:
        print(f"      only the first {limit}; --limit explains more")
    print(f"      {config.out}")
    return sum(record["status"] != OK for record in records)


class Explainer:
    """Explains the predictions of a bundle for one target."""

    def __init__(self, bundle: Bundle, target: str | None, steps: int, device: torch.device) -> None:
        """Set the bundle and the target.

        Args:
            bundle: whose predictions are explained.
            target: one of its targets; None for the first.
            steps: see attribution.explain.
            device: of the bundle's models and of the LLM.

        Raises:
            SettingError: no such target.
        """
        self.bundle, self.steps, self.device = bundle, steps, device
        self.target = bundle.targets.index(one_of("target", target or bundle.targets[0], bundle.targets))
        self.classes = bundle.task == "classification"
        self.unit = "log-odds" if self.classes else bundle.unit
        # of words the reader cannot know which one is raised
        word = bundle.classes[self.target][1] if self.classes else "1"
        self.class_1 = "" if word == "1" else word
        self.pooled = bundle.source is not None and not bundle.config.wants_tokens
        self._embedder = bundle.embedder(device)
        descriptor_scaler, read_views = bundle.ensemble.descriptor_scaler, bundle.config.read_views
        self.descriptors = (
            ()
            if descriptor_scaler is None
            else tuple(np.array(bundle.descriptor_names)[descriptor_scaler.columns].tolist())
        )
        self._average = bundle.average_atom() if "graph" in read_views else None
        views = (view for view in VIEWS if {"tokens": "states"}.get(view, view) in read_views)
        self.views = (*views, *(VOTERS[voter.name] for voter in bundle.ensemble.voters))
        self._unscaled = baseline_columns(bundle.config, bundle.descriptor_names)

    def about(self) -> dict[str, Any]:
        """Target, unit, method and views, for explained.json."""
        return {
            "target": self.bundle.targets[self.target],
            "kind": self.bundle.task,
            "unit": self.unit,
            **({"class_1": self.class_1} if self.class_1 else {}),
            "members": len(self.bundle.ensemble.all_members),
            "method": "integrated gradients",
            "views": list(self.views),
        }

    def explain(
        self, smiles: str, name: str, cells: Sequence[str] = ()
    ) -> tuple[Explanation, tuple[np.ndarray, np.ndarray] | None]:
        """Explain one molecule.

        Args:
            smiles: of the input.
            name: shown in the picture; may be empty.
            cells: of the columns that the model reads beside the structure.

        Returns:
            The explanation, and the two attention maps, None for a model without them; see attribution.attention.

        Raises:
            MoleculeError: there is no prediction.
        """
        bundle, covariates = self.bundle, None
        if bundle.covariates is not None:
            covariates = bundle.covariates.read(cells)[0][None]
        text = standard_smiles(smiles.strip(), bundle.config.standardize)
        mol = parse_smiles(text)
        views = bundle.config.read_views
        plain = without(bundle.config.read_descriptors, "taught")
        computed, counts, failures = descriptors_and_counts(plain, bundle.config.reads_counts, [text])
        graphs = graphs_of([mol]) if "graph" in views else None
        prints = compute_uncached([text]) if "minimol" in bundle.config.read_voters else None
        if prints is not None and np.isnan(prints).any():
            raise MoleculeError(UNREADABLE)
        features_read = Features(self._states(text), graphs, computed, counts, covariates=covariates, minimol=prints)
        unscaled = with_taught(features_read, bundle.head())
        values, features = unscaled.descriptors, bundle.scale_features(unscaled)
        molecule = features.batch(np.array([0]), self.device)
        attribution = explain_all(
            bundle.ensemble, features, molecule, self._average, self.target, self.pooled, self.steps, self._unscaled
        )
        probability = self._probability(features) if self.classes else None
        descriptor_scaler = bundle.ensemble.descriptor_scaler
        explanation = Explanation(
            smiles=text,
            name=name,
            title=self._title(attribution, probability, cells),
            unit=self.unit,
            attribution=attribution,
            probability=probability,
            views=self.views,
            tokens=() if self._embedder is None else self._texts(text),
            descriptors=tuple(self.descriptors),
            xtb="".join(failures),
            values=np.zeros(0) if values is None or descriptor_scaler is None else values[0, descriptor_scaler.columns],
        )
        return explanation, attention(bundle.ensemble, molecule)

    def _states(self, smiles: str) -> Ragged | None:
        """The states of all tokens, also if the models read their mean."""
        if self._embedder is None:
            return None
        tokens = self._embedder.embed_uncached([smiles], "tokens")
        if not tokens.lengths[0]:
            raise MoleculeError(TOO_LONG)
        if not self.pooled:
            return tokens
        # token states are float16, their mean is float32: all are shifted to that mean, which `kflm2 predict` reads
        values = tokens.values.astype(np.float32)
        shift = self._embedder.embed_uncached([smiles], "mean").values - values.mean(axis=0, keepdims=True)
        return Ragged(values + shift, tokens.ptr)

    def _texts(self, smiles: str) -> tuple[str, ...]:
        assert self._embedder is not None and self._embedder.loaded is not None
        return token_texts(self._embedder.loaded.tokenizer, smiles)

    def _probability(self, features: Features) -> float:
        """As `kflm2 predict` gives it: the calibrated mean of the members' probabilities, not of their logits."""
        if self.pooled and features.states is not None:
            mean = features.states.take(np.array([0])).values.mean(axis=0, keepdims=True)
            features = replace(features, states=Ragged(mean, np.array([0, 1])))
        raw, _ = self.bundle.ensemble.predict(features)
        return float(self.bundle.calibration.calibrated(raw)[0, self.target])

    def _title(self, attribution: Attribution, probability: float | None, cells: Sequence[str]) -> str:
        # some targets have a whole sentence as name, and the values after it are more important
        target = _shortened(self.bundle.targets[self.target], _TARGET_LENGTH)
        unit = f" {self.unit}" if self.unit else ""
        names = () if self.bundle.covariates is None else self.bundle.covariates.names
        given = ", ".join(f"{name} {cell.strip()}" for name, cell in zip(names, cells, strict=bool(names)))
        at = f" at {_shortened(given, _TARGET_LENGTH)}" if given else ""
        of = f" of {_shortened(self.class_1, _SMILES_LENGTH)}" if self.class_1 else ""
        probability_text = "" if probability is None else f" (probability{of} {probability:.3g})"
        return (
            f"{target}{at}: predicted {attribution.prediction:.4g}{unit}{probability_text};"
            f" baseline {attribution.baseline:.4g}; difference {attribution.difference:+.4g}"
        )


def token_texts(tokenizer: "PreTrainedTokenizerBase", smiles: str) -> tuple[str, ...]:
    """(T,) the substring of the SMILES of each token; the token's name if it has none, as a start token."""
    encoding = tokenizer(smiles, add_special_tokens=True, return_offsets_mapping=tokenizer.is_fast)
    names = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    # a tokenizer in pure Python gives no offsets
    offsets = encoding.get("offset_mapping") or [(0, 0)] * len(names)
    return tuple(smiles[start:end] or str(name) for (start, end), name in zip(offsets, names, strict=True))


def _draw(explanation: Explanation, maps: tuple[np.ndarray, np.ndarray] | None, stem: Path) -> list[str]:
    """Write the pictures of a molecule; returns their file names."""
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    write_text(paths[0], plots.svg(explanation))
    with atomic(paths[1]) as temporary:
        temporary.write_bytes(plots.png(explanation))
    if maps is not None:
        paths.append(stem.with_name(f"{stem.name}-attention.png"))
        save_figure(plots.attention(*maps, explanation.tokens, explanation.smiles), paths[2])
    return [path.name for path in paths]


def _table(number: int, explanation: Explanation) -> pd.DataFrame:
    """A row per atom, token, descriptor and voter, in words where it is a descriptor; the attributions add up."""
    attribution = explanation.attribution
    atoms = [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in parse_smiles(explanation.smiles).GetAtoms()]
    kinds = (
        ("atom", atoms, attribution.atoms, lambda _: ""),
        ("token", explanation.tokens, attribution.tokens, lambda _: ""),
        ("descriptor", explanation.descriptors, attribution.descriptors, meaning),
        ("voter", tuple(attribution.voters), np.array(list(attribution.voters.values())), lambda _: ""),
    )
    rows = [
        (number, explanation.smiles, explanation.name, kind, index, labels[index], value, meanings(labels[index]))
        for kind, labels, values, meanings in kinds
        for index, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def explained_values(explanation: Explanation) -> dict[str, Any]:
    """The values of a molecule in explained.json."""
    attribution = explanation.attribution
    return {
        "prediction": attribution.prediction,
        "probability": explanation.probability,
        "baseline": attribution.baseline,
        "difference": attribution.difference,
        "sum": attribution.total,
        "gap": attribution.gap,
        "complete": attribution.complete,
        "steps": attribution.steps,
        "shares": attribution.shares,
        "tokens": list(explanation.tokens),
        **({"xtb": explanation.xtb} if explanation.xtb else {}),
    }


def _line(explanation: Explanation) -> str:
    """The printed line of a molecule."""
    attribution = explanation.attribution
    smiles = _shortened(explanation.smiles, _SMILES_LENGTH)
    shares = ", ".join(f"{view} {attribution.shares[view]:+.3g}" for view in explanation.views)
    unit = f" {explanation.unit}" if explanation.unit else ""
    incomplete = "" if attribution.complete else f" (NOT complete: more than {attribution.allowed:.2g})"
    return (
        f"{smiles:<{_SMILES_LENGTH}}  predicted {attribution.prediction:.4g}{unit}, baseline"
        f" {attribution.baseline:.4g}, difference {attribution.difference:+.4g} = {shares};"
        f" gap {attribution.gap:.1g}{incomplete}, {attribution.steps} steps"
        + (f"; no xTB values: {explanation.xtb}" if explanation.xtb else "")
    )


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _clear(out: Path) -> None:
    """Remove the pictures of an earlier run, which could be mistaken for those of this run."""
    if not (out / _JSON).is_file():
        return
    records = read_json(out / _JSON, "explanations", DataError).get("molecules", [])
    (out / _JSON).unlink()
    for name in (str(name) for record in records for name in record.get("files", [])):
        if _PICTURE.fullmatch(name):
            (out / name).unlink(missing_ok=True)
