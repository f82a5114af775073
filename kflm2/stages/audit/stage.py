"""Audit of a dataset: rejected rows, duplicates, leakage, similarity of the test part to train."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kflm2.config.table import TableConfig
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.similarity import fingerprints, nearest
from kflm2.data.splits import Split, make_splits
from kflm2.errors import DataError
from kflm2.files import read_json, write_csv, write_json
from kflm2.plotting import save_figure
from kflm2.stages.audit.molecule_facts import MoleculeFacts
from kflm2.stages.audit.plots import draw


def run(config: TableConfig) -> None:
    """Write the audit to OUT/<dataset>/audit-<split>-<seed>/ and print its summary.

    Raises:
        KFLM2Error: the table cannot be used.
    """
    molecules = load(config)
    (split,) = make_splits(config.resolved_split, molecules.smiles, [config.seed], config.fractions, molecules.parts)
    facts = MoleculeFacts.of(molecules.smiles)
    duplicate_table = duplicates(molecules, facts, split)
    leakage_table = leakage(molecules, facts, split)
    similarity_table = similarity(molecules, split)
    folder = config.out / molecules.dataset.name / f"audit-{split.kind}-{config.seed}"
    if (folder / "audit.json").is_file() and not _is_of(folder / "audit.json", molecules, split):
        print(f"note: the audit in {folder} was of another table or split; this one replaces it")
    rejected = [dataclasses.asdict(rejection) for rejection in molecules.rejected]
    write_csv(folder / "rejected.csv", pd.DataFrame(rejected, columns=["row", "smiles", "reason"]))
    write_csv(folder / "duplicates.csv", duplicate_table)
    write_csv(folder / "leakage.csv", leakage_table)
    write_csv(folder / "similarity.csv", similarity_table)
    results = summarize(molecules, facts, split, duplicate_table, leakage_table, similarity_table)
    summary = {"seed": config.seed, **results}
    write_json(folder / "audit.json", summary)
    save_figure(draw(molecules, split, duplicate_table, similarity_table), folder / "audit.png")
    print(text(summary, molecules, folder))


def _is_of(path: Path, molecules: Molecules, split: Split) -> bool:
    """Whether an audit is of this table and split."""
    try:
        found = read_json(path, "audit", DataError)
        return (found["dataset"]["sha256"], found["split"]["sha256"]) == (molecules.sha256, split.sha256)
    except (DataError, KeyError, TypeError):
        return False


def duplicates(molecules: Molecules, facts: MoleculeFacts, split: Split) -> pd.DataFrame:
    """Every row whose structure occurs more than once, grouped by structure.

    Returns:
        group, structure, row, part, smiles, canonical (whether all rows of the group have the same canonical SMILES),
        agree (whether all labels of the group agree) and spread (largest difference of a target), both blank where no
        target has two exact labels, and the targets.
    """
    labels = split.labels()
    rows = []
    for number, group in enumerate(facts.groups(), 1):
        spread = _spread(molecules.y_true[group])
        same = len({facts.canonical[i] for i in group}) == 1
        for i in group:
            values = (number, facts.structure[i], molecules.rows[i], labels[i], molecules.smiles[i], same)
            rows.append((*values, _agree(spread), spread, *molecules.y_true[i]))
    columns = ["group", "structure", "row", "part", "smiles", "canonical", "agree", "spread"]
    return pd.DataFrame(rows, columns=[*columns, *(f"y_true_{target}" for target in molecules.dataset.targets)])


def _spread(y_true: np.ndarray) -> float:
    """Largest difference between two labels of a target in (n, K) labels; NaN if no target has two labels."""
    comparable = y_true[:, (~np.isnan(y_true)).sum(axis=0) > 1]
    return float((np.nanmax(comparable, axis=0) - np.nanmin(comparable, axis=0)).max()) if comparable.size else math.nan


def _agree(spread: float) -> bool | None:
    """None where nothing can be compared."""
    return None if math.isnan(spread) else spread == 0


def leakage(molecules: Molecules, facts: MoleculeFacts, split: Split) -> pd.DataFrame:
    """Every pair of a test row and a row of train or valid with the same structure, and whether their labels agree."""
    labels = split.labels()
    test = np.zeros(len(labels), dtype=bool)
    test[split.test] = True
    pairs = []
    for group in facts.groups():
        for tested in group[test[group]]:
            for seen in group[~test[group]]:
                spread = _spread(molecules.y_true[[tested, seen]])
                same = facts.canonical[tested] == facts.canonical[seen]
                tested_row = (facts.structure[tested], molecules.rows[tested], labels[tested], molecules.smiles[tested])
                seen_row = (molecules.rows[seen], labels[seen], molecules.smiles[seen])
                pairs.append((*tested_row, *seen_row, same, _agree(spread), spread))
    columns = "structure row part smiles seen_row seen_part seen_smiles canonical agree spread".split()
    return pd.DataFrame(pairs, columns=columns)


def similarity(molecules: Molecules, split: Split) -> pd.DataFrame:
    """Every test molecule with the most similar training molecule (Tanimoto, Morgan fingerprints)."""
    prints = fingerprints(molecules.smiles)
    position, tanimoto = nearest([prints[i] for i in split.test], [prints[i] for i in split.train])
    nearest_index = split.train[position]
    return pd.DataFrame(
        {
            "row": molecules.rows[split.test],
            "part": split.labels()[split.test],
            "smiles": [molecules.smiles[i] for i in split.test],
            "nearest_row": molecules.rows[nearest_index],
            "nearest_smiles": [molecules.smiles[i] for i in nearest_index],
            "tanimoto": tanimoto,
        }
    )


def summarize(
    molecules: Molecules,
    facts: MoleculeFacts,
    split: Split,
    duplicate_table: pd.DataFrame,
    leakage_table: pd.DataFrame,
    similarity_table: pd.DataFrame,
) -> dict[str, Any]:
    """Counts and statistics of the audit, as written to audit.json."""
    groups = duplicate_table.drop_duplicates("group")
    spreads = groups["spread"].dropna()
    n = len(facts.structure)
    quartiles = similarity_table["tanimoto"].quantile([0.25, 0.5, 0.75]).tolist()
    y_true = molecules.y_true
    return {
        "dataset": {"name": molecules.dataset.name, "sha256": molecules.sha256, "kind": molecules.dataset.task},
        "rows": {"read": molecules.read, "kept": n, "rejected": len(molecules.rejected)},
        "smiles": {
            "padded": molecules.padded,
            "longest": max(map(len, molecules.smiles)),
            "one_or_two_atoms": int((facts.atoms <= 2).sum()),
            "salts_or_mixtures": int(facts.mixture.sum()),
            "undefined_stereo": int(facts.undefined.sum()),
        },
        "labels": {
            "missing": molecules.missing,
            "targets": {
                target: _label_statistics(y_true[:, index], molecules.dataset.task == "classification")
                for index, target in enumerate(molecules.dataset.targets)
            },
        },
        "duplicates": {
            "same_structure": n - len(set(facts.structure)),
            "same_canonical_smiles": n - len(set(facts.canonical)),
            "groups": len(groups),
            "groups_that_agree": int((spreads == 0).sum()),
            "groups_that_differ": int((spreads > 0).sum()),
            "largest_spread": float(spreads.max()) if len(spreads) else 0.0,
            "median_spread": float(spreads.median()) if len(spreads) else 0.0,
        },
        "split": {"kind": split.kind, "sha256": split.sha256, "sizes": split.sizes},
        "leakage": {
            "test_molecules": len(split.test),
            "same_structure": int(leakage_table["row"].nunique()),
            "same_canonical_smiles": int(leakage_table[leakage_table["canonical"].astype(bool)]["row"].nunique()),
            "with_another_label": int(leakage_table[leakage_table["spread"] > 0]["row"].nunique()),
        },
        "similarity": {"quartiles": quartiles, "share_above_0.9": float((similarity_table["tanimoto"] > 0.9).mean())},
    }


def _label_statistics(labels: np.ndarray, classes: bool) -> dict[str, float]:
    known = labels[~np.isnan(labels)]
    statistics: dict[str, float] = {"labels": len(known)}
    if len(known):
        statistics["mean"] = float(known.mean())
    if len(known) and not classes:
        statistics |= {"sd": float(known.std()), "min": float(known.min()), "max": float(known.max())}
    return statistics


def text(summary: dict[str, Any], molecules: Molecules, folder: Path) -> str:
    """The printed summary of the audit."""
    rows, smiles, leaks = summary["rows"], summary["smiles"], summary["leakage"]
    low, median, high = summary["similarity"]["quartiles"]
    sizes = " / ".join(f"{size} {part}" for part, size in summary["split"]["sizes"].items())
    return "\n".join(
        [
            f"{summary['dataset']['name']}: {rows['read']} rows read, {rows['kept']} kept, {rows['rejected']} rejected",
            *(
                f"  row {rejection.row}: {rejection.smiles[:50]!r}: {rejection.reason}"
                for rejection in molecules.rejected[:3]
            ),
            *(["  ..."] if rows["rejected"] > 3 else []),
            f"molecules   {smiles['salts_or_mixtures']} salts or mixtures, {smiles['undefined_stereo']} with undefined"
            f" stereo, {smiles['one_or_two_atoms']} of one or two atoms;",
            f"            {smiles['padded']} SMILES with surrounding whitespace; the longest SMILES has"
            f" {smiles['longest']} characters",
            f"labels      {summary['labels']['missing']} missing",
            *_duplicates_text(summary["duplicates"], summary["dataset"]["kind"] == "regression"),
            f"split       {summary['split']['kind']}, seed {summary['seed']}: {sizes}",
            f"leakage     of {leaks['test_molecules']} test molecules {leaks['same_canonical_smiles']} are in train or"
            f" valid by canonical SMILES, {leaks['same_structure']} by InChIKey, {leaks['with_another_label']} with"
            " another label",
            f"distance    Tanimoto similarity of a test molecule to the nearest in train: median {median:.2f},"
            f" quartiles {low:.2f} and {high:.2f}",
            f"written     {folder}",
        ]
    )


def _duplicates_text(counts: dict[str, Any], regression: bool) -> list[str]:
    if not counts["groups"]:
        return ["duplicates  none"]
    spread = f", median difference {counts['median_spread']:.2g}, largest {counts['largest_spread']:.2g}"
    agree, differ = counts["groups_that_agree"], counts["groups_that_differ"]
    others = counts["groups"] - agree - differ
    return [
        f"duplicates  further rows of a structure: {counts['same_structure']} by InChIKey,"
        f" {counts['same_canonical_smiles']} by canonical SMILES",
        f"            structures that occur more than once: {counts['groups']}; labels agree in {agree} and differ in"
        f" {differ}"
        + (spread if regression and agree + differ else "")
        + (f"; {others} have no two exact labels of one target" if others else ""),
    ]
