"""A fast student of a slow model: a graph network that learns the model's predictions of unlabelled molecules.

Distillation after Hinton, Vinyals and Dean, arXiv 1503.02531: the labels of few molecules and the predictions of many.
"""

import contextlib
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kflm2.config.distill import DistillConfig
from kflm2.config.table import DataConfig, SplitConfig
from kflm2.config.train import TrainConfig
from kflm2.data.corpus import CorpusFilter, CorpusStats, ExcludedStructures, find_corpus
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, make_splits
from kflm2.data.structures import standard_smiles
from kflm2.device import choose_device
from kflm2.errors import DataError, KFLM2Error, MoleculeError, SettingError
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import build_graphs
from kflm2.predictor.bundle import LEARNT_BEFORE, Bundle, check_destination, saved_as
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.export import card, make_bundle
from kflm2.predictor.featurizer import OK
from kflm2.predictor.manifest import BundleError
from kflm2.predictor.predictor import TOO_LONG, Predictor
from kflm2.progress import Progress
from kflm2.resources import saved_model
from kflm2.results import schema
from kflm2.results.runs import Run
from kflm2.results.schema import RunResult
from kflm2.stages.train.experiment import assemble, evaluate
from kflm2.stages.train.members import Member, fit_all
from kflm2.stages.train.prepared import Prepared
from kflm2.text_table import aligned
from kflm2.trainers.jobs import default_jobs, run_stream
from kflm2.trainers.supervised import FittedModel

_AT_ONCE = 256
"""Molecules that the teacher predicts at once."""
_LABEL_REPEATS = 5
"""Times that a molecule with a label is seen in an epoch, while one without is seen once."""
_STUDENT: dict[str, Any] = {"graph_encoder": "gine", "hidden": 64, "schedule": "onecycle"}
"""The settings of crossAtt's graph network."""


def run(config: DistillConfig) -> None:
    """Train a student, save it, and print its metrics beside the teacher's.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the teacher or the corpus cannot be used, or it was trained on another table.
    """
    assert config.save is not None
    if config.save.resolve().is_relative_to(saved_model(config.model).resolve()):
        raise SettingError(f"save: {config.save} is the teacher or lies in it: name another folder")
    check_destination(config.save)
    if saved_as(config.save) is not None and not config.again:
        raise SettingError(f"save: {config.save} holds a model: name another folder, or replace it by --again")
    device = choose_device(config.device)
    teacher = load_bundle(config.model, config.llm, device)
    if teacher.covariates is not None:
        raise SettingError(
            f"the teacher reads columns beside the structure ({', '.join(teacher.covariates.names)}); molecules of a"
            " corpus do not have them, so it cannot teach a student"
        )
    try:
        record = schema.parse(RunResult, teacher.provenance, config.model)
        student = student_config(teacher, config)
        molecules = labelled(teacher, student, device)
        split = same_split(teacher, student, molecules)
    except KFLM2Error:
        raise
    except Exception as error:  # what a folder from elsewhere says of its making can be anything
        raise BundleError(f"{config.model} does not say rightly how it was made: {error!r}") from error
    smiles = unlabelled(config, student, molecules, split)
    smiles, y_teacher = taught(Predictor(teacher, device), smiles, config.jobs)
    print(f"the teacher predicts {len(smiles)} unlabelled molecules; {len(split.train)} have labels", flush=True)
    prepared = Prepared(molecules, Features(graphs=build_graphs(molecules.smiles)), None, {})
    models = _fit(student, *with_unlabelled(prepared, split, smiles, y_teacher), device)
    seconds = {"training": round(sum(model.seconds for model in models), 3)}
    trained = assemble(student, prepared, split, models, student.seed)
    student_run = evaluate(student, prepared, split, student.seed, trained, seconds)
    bundle = make_bundle(student_run)
    source = {"model": teacher.config.model, "corpus": find_corpus(config.corpus).name, "molecules": len(smiles)}
    before = {name: teacher.provenance[name] for name in (LEARNT_BEFORE,) if name in teacher.provenance}
    if record.config.get("inner") == "folds":
        source["learnt_from_valid"] = True
    if (origin := teacher.provenance.get("origin") or _origin_of_teacher(teacher)) is not None:
        source["origin"] = origin
    bundle = replace(bundle, provenance={**bundle.provenance, **before, "teacher": source})
    bundle.save(config.save, card(bundle, config.save.name))
    print(table(record, student_run))
    if origin is not None and origin.get("known"):
        print(
            f"note: the teacher went on from {origin['model']}, which had learnt from {origin['known']} of the test"
            " molecules: test metrics may be too good\n"
        )
    print(f"student   {config.save}: kflm2 predict {config.save} molecules.csv -o predicted.csv")


def student_config(teacher: Bundle, config: DistillConfig) -> TrainConfig:
    """Settings of the student: the table and the split are the teacher's.

    Raises:
        BundleError: the teacher does not say what it was trained on.
        SettingError: the teacher's table is not in the registry, and none is given.
    """
    if teacher.provenance.get("refit"):
        raise SettingError(
            "the teacher learnt from all molecules (--refit), so no student of it could be measured: take one that did"
            " not"
        )
    made = teacher.provenance.get("config")
    if not isinstance(made, dict):
        raise BundleError("the teacher was made by an earlier version, which did not keep its settings: train it again")
    names = {*DataConfig.__annotations__, *SplitConfig.__annotations__} - {"csv", "seed"}
    stored = {name: made.get(TrainConfig.OLD_NAMES.get(name, name)) for name in names}
    if stored.get("dataset") is None and config.csv is None:
        raise SettingError("the teacher was trained on a table of your own: give it with --csv")
    if stored.get("dataset") is not None and config.csv is not None:
        raise SettingError(f"the teacher was trained on the dataset {stored['dataset']}, which --csv cannot replace")
    if made.get("class_weight", "none") != "none":
        raise SettingError("the teacher weighs classes (--class-weight): its probabilities are not those of the data")
    student = TrainConfig.of(
        "gcn_indepent",
        **{name: tuple(value) if isinstance(value, list) else value for name, value in stored.items() if value},
        **_STUDENT,
        csv=None if stored.get("dataset") else config.csv,
        seed=int(teacher.provenance["seed"]),
        epochs=config.epochs,
        graph_width=config.graph_width,
        graph_depth=config.graph_depth,
        ensemble=config.ensemble,
        runs=1,
        save=config.save,
        jobs=config.jobs,
    )
    student.check()
    return student


def labelled(teacher: Bundle, student: TrainConfig, device: torch.device) -> Molecules:
    """The molecules of the teacher's table that it could read."""
    molecules, embedder = load(student), teacher.embedder(device)
    if embedder is None:
        return molecules
    fits = embedder.fits(molecules.smiles)
    return molecules.reject({i: TOO_LONG for i, readable in enumerate(fits) if not readable})


def same_split(teacher: Bundle, student: TrainConfig, molecules: Molecules) -> Split:
    """The teacher's split, so that the student is tested on what neither has seen.

    Raises:
        DataError: the table is another one, or gives another split.
    """
    made, name = teacher.provenance, molecules.dataset.name
    if (molecules.dataset.targets, molecules.dataset.task) != (teacher.targets, teacher.task):
        raise DataError(f"{name} has other targets than the teacher")
    if molecules.sha256 != made["dataset"]["sha256"]:
        raise DataError(f"{name} is not the table that the teacher was trained on: its SHA-256 is another")
    (split,) = make_splits(student.resolved_split, molecules.smiles, [student.seed], student.fractions, molecules.parts)
    if split.sha256 != made["split"]["sha256"]:
        raise DataError(
            f"{name} is split otherwise than when the teacher was trained, by other versions: train it again"
        )
    return split


def unlabelled(config: DistillConfig, student: TrainConfig, molecules: Molecules, split: Split) -> list[str]:
    """SMILES of the corpus, and their fragments, in the teacher's standard form; none is of the valid or test part."""
    known = [molecules.smiles[i] for part in (split.valid, split.test) for i in part]
    stats = CorpusStats()
    corpus = CorpusFilter(
        find_corpus(config.corpus).path, ExcludedStructures.of(known), config.molecules, fragments=True
    )
    texts = []
    for text in corpus.training_smiles(stats):
        with contextlib.suppress(MoleculeError):
            texts.append(standard_smiles(text, student.standardize))
    if stats.excluded:
        print(f"left out  {stats.excluded} molecules of the corpus whose structure is in the valid or test part")
    if not texts:
        raise DataError(f"corpus {config.corpus}: no molecule can be used")
    return list(dict.fromkeys(texts))


def taught(predictor: Predictor, smiles: list[str], jobs: int | None) -> tuple[list[str], np.ndarray]:
    """The SMILES that the teacher can predict, and its (m, K) predictions."""
    blocks = [smiles[start : start + _AT_ONCE] for start in range(0, len(smiles), _AT_ONCE)]
    jobs = (jobs or default_jobs()) if predictor.device.type == "cpu" else 1
    kept: list[str] = []
    y_teacher: list[np.ndarray] = []
    stream = run_stream(functools.partial(_predict, predictor), blocks, jobs, forked=True)
    with Progress(total=len(smiles), desc="teacher", unit="mol") as bar, contextlib.closing(stream):
        for block, (y_pred, ok) in zip(blocks, stream, strict=True):
            kept += [text for text, known in zip(block, ok, strict=True) if known]
            y_teacher.append(y_pred[ok])
            bar.update(len(block))
    return kept, np.concatenate(y_teacher)


def _predict(predictor: Predictor, smiles: list[str]) -> tuple[np.ndarray, np.ndarray]:
    if predictor.device.type == "cpu":
        torch.set_num_threads(1)  # so that the results do not depend on the number of processes
    predictions = predictor.predict(smiles)
    return predictions.y_pred, np.array([status == OK for status in predictions.status])


def with_unlabelled(
    prepared: Prepared, split: Split, smiles: list[str], y_teacher: np.ndarray
) -> tuple[Prepared, Split]:
    """A table and its split, with further molecules in the training part whose labels are the teacher's predictions."""
    table, count = prepared.molecules, len(prepared.molecules.smiles)
    bounds, weights = table.bounds, table.weights
    if bounds is not None:
        bounds = np.concatenate([bounds, np.full((2, *y_teacher.shape), np.nan)], axis=1)
    if weights is not None:  # on the scale of the table's own
        weights = np.concatenate([weights, np.full(len(smiles), weights[split.train].mean())])
    molecules = replace(
        table,
        smiles=[*table.smiles, *smiles],
        y_true=np.concatenate([table.y_true, y_teacher]),
        bounds=bounds,
        weights=weights,
        rows=np.arange(1, count + len(smiles) + 1),
        parts=None,
    )
    train = np.concatenate([np.tile(split.train, _LABEL_REPEATS), np.arange(count, count + len(smiles))])
    features = Features(graphs=build_graphs(molecules.smiles))
    return replace(prepared, molecules=molecules, features=features), replace(split, train=train)


def _fit(config: TrainConfig, prepared: Prepared, split: Split, device: torch.device) -> list[FittedModel]:
    members = [Member(config.seed, number) for number in range(config.members)]
    with (
        Progress(total=len(members) * config.epochs, desc="student", unit="epoch") as bar,
        contextlib.closing(fit_all(config, prepared, {config.seed: split}, device, members, bar.update)) as models,
    ):
        return list(models)


def table(teacher: RunResult, student: Run) -> str:
    """Metrics of both; of valid, a teacher with inner folds has them out-of-fold over train and valid."""
    parts = [part for part in student.scores if part != "train"]
    rows = [["", *(f"{part}, {who}" for part in parts for who in ("teacher", "student"))]]
    names = teacher.dataset.mean_metrics
    for name in names:
        cells = []
        for part in parts:
            cells += [teacher.metrics.get(part, {}).get(name), student.scores[part].mean.get(name)]
        rows.append([name, *("-" if value is None else f"{value:.3f}" for value in cells)])
    title = f"{teacher.model} and its student on {student.molecules.dataset.name}"
    learnt = []
    if teacher.config.get("inner") == "folds":
        learnt = [
            "valid: most of the teacher's models learnt from it, so the student's looks too good; compare on test"
        ]
    return "\n".join(["", title, "", *aligned(rows), *learnt, ""])


def _origin_of_teacher(teacher: Bundle) -> dict[str, Any] | None:
    """What the teacher's own teacher went on from."""
    made = teacher.provenance.get("teacher")
    return made.get("origin") if isinstance(made, dict) else None
