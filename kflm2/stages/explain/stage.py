"""What drives predictions: a picture and a table of attributions for each of some molecules."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from kflm2.config.explain import ExplainConfig
from kflm2.config.train import wants_tokens
from kflm2.data.molecules import parse_smiles
from kflm2.data.structures import standard_smiles
from kflm2.device import choose_device
from kflm2.errors import DataError, MoleculeError, one_of
from kflm2.featurize.descriptors import descriptor_rows
from kflm2.featurize.embeddings import Embedder
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import graphs_of
from kflm2.featurize.ragged import Ragged
from kflm2.files import atomic, read_json, write_json, write_text
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.predictor import OK, TOO_LONG
from kflm2.predictor.readers import MoleculeReader
from kflm2.results.runs import write_csv
from kflm2.stages.explain import attribution
from kflm2.stages.explain import plots as attribution_picture
from kflm2.stages.explain.attribution import Attribution
from kflm2.stages.explain.plots import Explained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JSON = "explained.json"
_OURS = re.compile(r"\d{3,}(\.svg|\.png|-attention\.png)")
_SHOWN, _TARGET = 40, 36
_COLUMNS = ("row", "smiles", "name", "kind", "index", "label", "attribution")


def run(config: ExplainConfig) -> int:
    """Explain molecules, one after another.

    Args:
        config: checked.

    Returns:
        How many of them have no prediction.

    Raises:
        KFLM2Error: model or input cannot be used.
    """
    device = choose_device(config.device)
    bundle = Bundle.load(config.model, config.llm, device)
    explainer = Explainer(bundle, config.target, config.steps, device)
    reader = MoleculeReader.of(config.molecules, config.smiles_column, config.name_column)
    most = None if reader.format == "words" else config.limit
    _clear(config.out)
    frames, told = [pd.DataFrame(columns=list(_COLUMNS))], []
    rows = reader.rows()
    for row, given in enumerate(itertools.islice(rows, most), start=1):
        one = {"row": row, "name": given.name, "smiles": ""}
        try:
            one["smiles"] = reader.smiles(given)
            explained, maps = explainer.explain(str(one["smiles"]), given.name if reader.named else "")
        except MoleculeError as error:
            print(f"{row:>4}  no prediction: {error}", flush=True)
            told.append({**one, "status": str(error)})
            continue
        files = _draw(explained, maps, config.out / f"{row:03d}")
        frames.append(_table(row, explained))
        told.append({**one, "smiles": explained.smiles, "status": OK, **_figures(explained), "files": files})
        print(f"{row:>4}  {_line(explained)}", flush=True)
    write_csv(config.out / "attributions.csv", pd.concat(frames, ignore_index=True))
    write_json(config.out / _JSON, {**explainer.about(), "molecules": told})
    if next(rows, None) is not None:
        print(f"      only the first {most}; --limit explains more")
    print(f"      {config.out}")
    return sum(own["status"] != OK for own in told)


class Explainer:
    """A bundle whose predictions are explained, of one target."""

    def __init__(self, bundle: Bundle, target: str | None, steps: int, device: torch.device) -> None:
        """Take a bundle.

        Args:
            bundle: whose predictions are explained.
            target: one of its targets; None for the first.
            steps: see attribution.explain.
            device: that the bundle was put on, and the LLM's.

        Raises:
            SettingError: no such target.
        """
        self.bundle, self.steps, self.device = bundle, steps, device
        self.target = bundle.targets.index(one_of("target", target or bundle.targets[0], bundle.targets))
        self.classes = bundle.task == "classification"
        self.unit = "log-odds" if self.classes else bundle.unit
        self.pooled = bundle.source is not None and not wants_tokens(bundle.config)
        self._embedder = Embedder(bundle.source, device) if bundle.source is not None else None
        scale, read = bundle.ensemble.scale, bundle.config.read_views
        self.descriptors = () if scale is None else attribution.descriptor_names(bundle.config.descriptors, scale)
        self.views = tuple(view for view in attribution.VIEWS if {"tokens": "states"}.get(view, view) in read)

    def about(self) -> dict[str, Any]:
        """What is explained, for explained.json."""
        return {
            "target": self.bundle.targets[self.target],
            "kind": self.bundle.task,
            "unit": self.unit,
            "members": len(self.bundle.ensemble.members),
            "method": "integrated gradients",
            "views": list(self.views),
        }

    def explain(self, smiles: str, name: str) -> tuple[Explained, tuple[np.ndarray, np.ndarray] | None]:
        """Explain one molecule.

        Args:
            smiles: as given.
            name: that is shown; may be empty.

        Returns:
            Its attributions, and where tokens and atoms attend to each other the two maps; see attribution.attention.

        Raises:
            MoleculeError: there is no prediction.
        """
        bundle = self.bundle
        text = standard_smiles(smiles.strip(), bundle.config.standardize)
        mol = parse_smiles(text)
        read = bundle.config.read_views
        values = descriptor_rows(bundle.config.descriptors, [text]) if "descriptors" in read else None
        graphs = graphs_of([mol]) if "graph" in read else None
        features = bundle.ensemble.scaled(Features(self._states(text), graphs, values))
        molecule = features.batch(np.array([0]), self.device)
        found = attribution.explain(bundle.ensemble, molecule, self.target, self.pooled, self.steps)
        probability = self._probability(features) if self.classes else None
        scale = bundle.ensemble.scale
        explained = Explained(
            smiles=text,
            name=name,
            title=self._title(found, probability),
            unit=self.unit,
            found=found,
            probability=probability,
            views=self.views,
            tokens=() if self._embedder is None else self._texts(text),
            descriptors=tuple(self.descriptors),
            values=np.zeros(0) if values is None or scale is None else values[0, scale.columns],
        )
        return explained, attribution.attention(bundle.ensemble, molecule)

    def _states(self, smiles: str) -> Ragged | None:
        """The states of all tokens, also where the models read their mean."""
        if self._embedder is None:
            return None
        tokens = self._embedder.compute([smiles], "tokens")
        if not tokens.lengths[0]:
            raise MoleculeError(TOO_LONG)
        if not self.pooled:
            return tokens
        # tokens come in float16, their mean does not; what that loses is given back: predict's prediction is explained
        own = tokens.values.astype(np.float32)
        lost = self._embedder.compute([smiles], "mean").values - own.mean(axis=0, keepdims=True)
        return Ragged(own + lost, tokens.ptr)

    def _texts(self, smiles: str) -> tuple[str, ...]:
        assert self._embedder is not None and self._embedder.loaded is not None
        return token_texts(self._embedder.loaded.tokenizer, smiles)

    def _probability(self, features: Features) -> float:
        """What `kflm2 predict` says: the calibrated mean of the members' probabilities, not of their logits."""
        if self.pooled and features.states is not None:
            mean = features.states.take(np.array([0])).values.mean(axis=0, keepdims=True)
            features = replace(features, states=Ragged(mean, np.array([0, 1])))
        raw, _ = self.bundle.ensemble.predict(features)
        return float(self.bundle.calibration.calibrated(raw)[0, self.target])

    def _title(self, found: Attribution, probability: float | None) -> str:
        # some targets are named by a whole sentence, and the figures after it matter more
        target = _shortened(self.bundle.targets[self.target], _TARGET)
        unit = f" {self.unit}" if self.unit else ""
        odds = "" if probability is None else f" (probability {probability:.3g})"
        return (
            f"{target}: predicted {found.prediction:.4g}{unit}{odds}; a molecule that says"
            f" nothing would get {found.baseline:.4g}, the difference is {found.difference:+.4g}"
        )


def token_texts(tokenizer: "PreTrainedTokenizerBase", smiles: str) -> tuple[str, ...]:
    """(T,) the piece of the SMILES that each token stands for; its name where that is none, as for a start."""
    read = tokenizer(smiles, add_special_tokens=True, return_offsets_mapping=tokenizer.is_fast)
    names = tokenizer.convert_ids_to_tokens(read["input_ids"])
    # a tokenizer in plain Python knows no places
    places = read.get("offset_mapping") or [(0, 0)] * len(names)
    return tuple(smiles[start:end] or str(name) for (start, end), name in zip(places, names, strict=True))


def _draw(explained: Explained, maps: tuple[np.ndarray, np.ndarray] | None, stem: Path) -> list[str]:
    """Write a molecule's pictures; their names."""
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    write_text(paths[0], attribution_picture.svg(explained))
    with atomic(paths[1]) as temporary:
        temporary.write_bytes(attribution_picture.png(explained))
    if maps is not None:
        paths.append(stem.with_name(f"{stem.name}-attention.png"))
        with atomic(paths[2]) as temporary:
            attribution_picture.attention(*maps, explained.tokens, explained.smiles).savefig(temporary, dpi=150)
    return [path.name for path in paths]


def _table(row: int, explained: Explained) -> pd.DataFrame:
    """A line for each atom, token and descriptor; what they add, added up, is the explained difference."""
    found = explained.found
    atoms = [f"{atom.GetSymbol()}{atom.GetIdx()}" for atom in parse_smiles(explained.smiles).GetAtoms()]
    kinds = (
        ("atom", atoms, found.atoms),
        ("token", explained.tokens, found.tokens),
        ("descriptor", explained.descriptors, found.descriptors),
    )
    lines = [
        (row, explained.smiles, explained.name, kind, index, labels[index], value)
        for kind, labels, values in kinds
        for index, value in enumerate(values)
    ]
    return pd.DataFrame(lines, columns=list(_COLUMNS))


def _figures(explained: Explained) -> dict[str, Any]:
    found = explained.found
    return {
        "prediction": found.prediction,
        "probability": explained.probability,
        "baseline": found.baseline,
        "difference": found.difference,
        "sum": found.total,
        "gap": found.gap,
        "complete": found.complete,
        "steps": found.steps,
        "shares": found.shares,
        "tokens": list(explained.tokens),
    }


def _line(explained: Explained) -> str:
    """One line for people."""
    found = explained.found
    smiles = _shortened(explained.smiles, _SHOWN)
    shares = ", ".join(f"{view} {found.shares[view]:+.3g}" for view in explained.views)
    unit = f" {explained.unit}" if explained.unit else ""
    short = "" if found.complete else f", NOT complete: more than {found.allowed:.2g}"
    return (
        f"{smiles:<{_SHOWN}}  {found.prediction:.4g}{unit} = {found.baseline:.4g} {found.difference:+.4g} ({shares});"
        f" gap {found.gap:.1g} in {found.steps} steps{short}"
    )


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _clear(out: Path) -> None:
    """Remove what an earlier run left, whose pictures would pass for this one's."""
    if not (out / _JSON).is_file():
        return
    known = read_json(out / _JSON, "explanations", DataError)
    (out / _JSON).unlink()
    for name in (str(name) for one in known.get("molecules", []) for name in one.get("files", [])):
        if _OURS.fullmatch(name):
            (out / name).unlink(missing_ok=True)
