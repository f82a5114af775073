"""Stage 2 from a table to measured predictions: views, runs, evidence."""

import contextlib
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, make_splits
from kflm2.device import choose_device
from kflm2.errors import LLMError, MoleculeError
from kflm2.evaluation import evidence, report
from kflm2.evaluation.metrics import choose_thresholds, score
from kflm2.evaluation.uncertainty import CONFIDENCE, Calibration
from kflm2.featurize import adapters
from kflm2.featurize import llm as llms
from kflm2.featurize.descriptors import DescriptorScaler, compute_descriptors
from kflm2.featurize.embeddings import Embedder, Source
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import build_graphs
from kflm2.model import build
from kflm2.predictor.bundle import place
from kflm2.predictor.keeping import keep
from kflm2.settings import MODELS, TrainSettings, wants_tokens
from kflm2.trainers.property import Ensemble, fit


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A table's molecules and their views, before any split."""

    molecules: Molecules
    features: Features
    """Descriptors as computed; each run scales them on its own training rows."""
    source: Source | None
    """The LLM, where the model reads one."""
    seconds: dict[str, float]


def run(settings: TrainSettings) -> list[evidence.Run]:
    """Train and measure one pipeline for every seed, and write what was seen.

    Args:
        settings: checked.

    Returns:
        The runs, one a seed.

    Raises:
        KFLM2Error: the input cannot be used.
    """
    plan = _plan(settings)
    runs = list(_runs(plan, plan.splits))
    evidence.write_summary(runs, plan.folder / f"summary-{plan.settings.split}.json")
    print(report.table(runs, plan.folder))
    if plan.settings.save is not None:
        keep(runs[0], plan.settings.save)
        print(f"model     {plan.settings.save}: kflm2 predict {plan.settings.save} molecules.csv -o predicted.csv")
    return runs


def complete(settings: TrainSettings, molecules: Molecules | None = None) -> tuple[Path, Molecules]:
    """Make the runs that are not there yet; those of the same settings, data, split and LLM are kept.

    Args:
        settings: checked.
        molecules: default those of the table.

    Returns:
        The runs' folder, and the molecules that the pipeline can read. No table is printed and no summary written: the
        runs may come from several processes.
    """
    plan = _plan(settings, molecules)
    missing = {seed: split for seed, split in plan.splits.items() if not _is_done(plan, seed, split)}
    for _ in _runs(plan, missing):
        pass
    return plan.folder, plan.prepared.molecules


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is decided before the first model is trained."""

    settings: TrainSettings
    """Resolved."""
    device: torch.device
    prepared: Prepared
    splits: dict[int, Split]
    """Seed -> split."""
    folder: Path


def _plan(settings: TrainSettings, molecules: Molecules | None = None) -> _Plan:
    settings = settings.resolved()
    if settings.save is not None:
        place(settings.save)  # a place where nothing can be kept should show now, not after training
    assert settings.runs is not None and settings.split is not None
    device = choose_device(settings.device)
    prepared = prepare(settings, device, molecules)
    molecules = prepared.molecules
    # every split is made before the first model is trained: a split that cannot be made should show at once
    seeds = range(settings.seed, settings.seed + settings.runs)
    splits = make_splits(settings.split, molecules.smiles, seeds, settings.fractions, molecules.parts)
    # what is kept has other settings than the runs that are compared, which must not be overwritten
    name = settings.name or (f"{settings.model}-saved" if settings.save else settings.model)
    folder = settings.out / molecules.dataset.name / name
    folder.mkdir(parents=True, exist_ok=True)  # a place that cannot be written to should show now, not after training
    return _Plan(settings, device, prepared, dict(zip(seeds, splits, strict=True)), folder)


def _runs(plan: _Plan, splits: dict[int, Split]) -> Iterator[evidence.Run]:
    """Train, measure and write, run after run."""
    settings, prepared = plan.settings, plan.prepared
    epochs = settings.members * settings.epochs
    what = settings.name or settings.model
    with tqdm(total=len(splits) * epochs, desc=what, unit="epoch", disable=not splits) as bar:
        for done, (seed, split) in enumerate(splits.items(), start=1):
            start = time.perf_counter()
            trained = train(settings, prepared, split, seed, plan.device, bar.update)
            bar.update(done * epochs - bar.n)  # after early stopping
            seconds = {**prepared.seconds, "training": round(time.perf_counter() - start, 3)}
            one = _judged(settings, prepared, split, seed, trained, seconds)
            bar.set_postfix_str(report.short(one.scores["valid"]))
            evidence.write_run(one, plan.folder / f"{settings.split}-{seed}")
            report.draw_run(one, plan.folder / f"{settings.split}-{seed}")
            yield one


def fit_once(settings: TrainSettings, molecules: Molecules, split: Split) -> evidence.Run:
    """One run on molecules and a split that are there, with nothing printed of it and nothing written.

    Raises:
        KFLM2Error: the settings cannot be used, or the LLM cannot read a molecule.
    """
    device = choose_device(settings.device)
    with contextlib.redirect_stdout(io.StringIO()):  # which LLM was taken is for those who run a stage
        prepared = prepare(settings, device, molecules)
    if len(prepared.molecules.smiles) < len(molecules.smiles):
        rejection = next(own for own in prepared.molecules.rejected if own not in molecules.rejected)
        raise MoleculeError(f"{rejection.smiles}: {rejection.reason}")
    trained = train(settings, prepared, split, settings.seed, device)
    return _judged(settings, prepared, split, settings.seed, trained, prepared.seconds)


def _judged(
    settings: TrainSettings,
    prepared: Prepared,
    split: Split,
    seed: int,
    trained: "Trained",
    seconds: dict[str, float],
) -> evidence.Run:
    molecules = prepared.molecules
    y_true, kind, y_pred, spread = molecules.y_true, molecules.dataset.kind, trained.y_pred, trained.spread
    thresholds = np.full(y_true.shape[1], np.nan)
    if kind == "classification":
        thresholds = choose_thresholds(y_true[split.valid], y_pred[split.valid])
    scores = {part: score(y_true[own], y_pred[own], kind, thresholds) for part, own in split.parts.items()}
    calibration = Calibration(kind, y_true[split.valid], y_pred[split.valid], spread[split.valid])
    coverage = {
        part: calibration.coverage(y_true[own], y_pred[own], spread[own], CONFIDENCE)
        for part, own in split.parts.items()
        if part.startswith("test")
    }
    return evidence.Run(
        settings,
        molecules,
        prepared.source,
        split,
        seed,
        scores,
        thresholds,
        y_pred,
        spread,
        calibration,
        coverage,
        trained.ensemble,
        # the states of one run are enough for a map of them
        trained.ensemble.members[0].hidden(trained.scaled) if seed == settings.seed else None,
        seconds,
    )


def _is_done(plan: _Plan, seed: int, split: Split) -> bool:
    """Whether a run is there that would come out the same."""
    path = plan.folder / f"{plan.settings.split}-{seed}" / "result.json"
    if not path.is_file():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    same = evidence.identity(evidence.plain(plan.settings)) == evidence.identity(found["config"])
    return (
        same
        and found["split"]["sha256"] == split.sha256
        and found["dataset"]["sha256"] == plan.prepared.molecules.sha256
        and found["llm"] == evidence.reader(plan.prepared.source)
    )


def prepare(settings: TrainSettings, device: torch.device, molecules: Molecules | None = None) -> Prepared:
    """Compute the views the model takes; what the cache holds is not computed again.

    Args:
        settings: see TrainSettings.
        device: to run the LLM on.
        molecules: default those of the table.
    """
    if molecules is None:
        molecules = load(settings)
        if molecules.rejected:
            print(report.rejections(molecules), flush=True)
    seconds: dict[str, float] = {}
    source, states = None, None
    if "states" in settings.read_views:
        source = find_source(settings)
        with _timed("embeddings", seconds):
            embedder = Embedder(source, device)
            states = embedder.embed(molecules.smiles, "tokens" if wants_tokens(settings) else "mean")
        too_long = {int(i): "longer than the LLM's context" for i in np.flatnonzero(states.lengths == 0)}
        if too_long:
            molecules = molecules.reject(too_long)
            states = states.subset(np.array([i for i in range(len(states)) if i not in too_long]))
            print(report.rejections(molecules), flush=True)
    graphs, descriptors = None, None
    if "graph" in settings.read_views:
        with _timed("graphs", seconds):
            graphs = build_graphs(molecules.smiles)
    if "descriptors" in settings.read_views:
        with _timed("descriptors", seconds):
            descriptors = compute_descriptors(settings.descriptors, molecules.smiles)
    return Prepared(molecules, Features(states, graphs, descriptors), source, seconds)


def find_source(settings: TrainSettings) -> Source:
    """The LLM, its adapter and its layers that the settings name; what auto takes is printed."""
    if settings.llm == llms.AUTO:
        llm, why = llms.auto()
        print(f"LLM: auto takes {llm.name} ({why})", flush=True)
    else:
        llm = llms.find(settings.llm)
    adapter = None
    if not MODELS[settings.model].adapter:
        if settings.adapter not in ("auto", "none"):
            raise LLMError(f"{settings.model} reads the base LLM always; --adapter {settings.adapter} cannot be used")
    elif settings.adapter == "auto":
        adapter = adapters.default_adapter(llm)
        print(f"adapter: {adapter or f'none found in models/{llm.name}, the base LLM is used'}", flush=True)
    elif settings.adapter != "none":
        adapter = Path(settings.adapter)
    return Source.of(llm, adapter, settings.layers)


@dataclasses.dataclass(frozen=True)
class Trained:
    """The models of one run, and what they say of all n molecules."""

    ensemble: Ensemble
    scaled: Features
    """As the models read them."""
    y_pred: np.ndarray
    """(n, K) mean of the members."""
    spread: np.ndarray
    """(n, K) their standard deviation."""


def train(
    settings: TrainSettings,
    prepared: Prepared,
    split: Split,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[], object] = lambda: None,
) -> Trained:
    """Train the models of one run."""
    with _threads(settings.threads):
        return _train(settings, prepared, split, seed, device, after_epoch)


def _train(
    settings: TrainSettings,
    prepared: Prepared,
    split: Split,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[], object],
) -> Trained:
    features, scale = prepared.features, None
    if features.descriptors is not None:
        scale = DescriptorScaler(features.descriptors[split.train])
        features = dataclasses.replace(features, descriptors=scale(features.descriptors))
    y_true = prepared.molecules.y_true
    kind = prepared.molecules.dataset.kind
    sizes = features.sizes()
    members = [
        fit(
            lambda: build(settings.model, sizes, y_true.shape[1], settings),
            features,
            y_true,
            split,
            kind,
            settings,
            # members of one run differ from each other and from all other runs' members
            seed=seed * 1000 + member,
            device=device,
            after_epoch=after_epoch,
        )
        for member in range(settings.members)
    ]
    ensemble = Ensemble(members, scale, sizes)
    return Trained(ensemble, features, *ensemble.predict(features))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """CPU threads of torch inside a block; the LLM before it takes all there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _timed:
    """Seconds spent in a block, under a name."""

    def __init__(self, name: str, seconds: dict[str, float]) -> None:
        self.name, self.seconds = name, seconds

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = round(time.perf_counter() - self.start, 3)
