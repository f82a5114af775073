"""What makes a dataset's figures doubtful: rows lost, duplicates, leakage, tests that are close to training."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kflm2.config.table import TableConfig
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.similarity import fingerprints, nearest
from kflm2.data.splits import Split, make_splits
from kflm2.files import atomic, write_json
from kflm2.results.runs import write_csv
from kflm2.stages.audit.molecule_facts import MoleculeFacts
from kflm2.stages.audit.plots import draw


def audit(config: TableConfig) -> None:
    """Write OUT/<dataset>/audit-<split>-<seed>/ and print its summary.

    Raises:
        KFLM2Error: the table cannot be used.
    """
    config.check_table()
    molecules = load(config)
    (split,) = make_splits(config.split_kind, molecules.smiles, [config.seed], config.fractions, molecules.parts)
    facts = MoleculeFacts.of(molecules.smiles)
    found = duplicates(molecules, facts, split)
    leaks = leakage(molecules, facts, split)
    close = similarity(molecules, split)
    folder = config.out / molecules.dataset.name / f"audit-{split.kind}-{config.seed}"
    rejected = [dataclasses.asdict(rejection) for rejection in molecules.rejected]
    write_csv(folder / "rejected.csv", pd.DataFrame(rejected, columns=["row", "smiles", "reason"]))
    write_csv(folder / "duplicates.csv", found)
    write_csv(folder / "leakage.csv", leaks)
    write_csv(folder / "similarity.csv", close)
    summary = {"seed": config.seed, **summarize(molecules, facts, split, found, leaks, close)}
    write_json(folder / "audit.json", summary)
    with atomic(folder / "audit.png") as temporary:
        draw(molecules, split, found, close).savefig(temporary, dpi=150)
    print(text(summary, molecules, folder))


def duplicates(molecules: Molecules, facts: MoleculeFacts, split: Split) -> pd.DataFrame:
    """Every row whose structure stands more than once, one structure after another.

    Returns:
        group, structure, row, part, smiles, canonical (whether all rows of the group have the same canonical SMILES),
        agree (whether all labels of the group agree), spread (largest difference of a target), and the targets.
    """
    labels = split.labels()
    lines = []
    for number, group in enumerate(facts.groups(), 1):
        spread = _spread(molecules.y_true[group])
        same = len({facts.canonical[i] for i in group}) == 1
        for i in group:
            head = (number, facts.structure[i], molecules.rows[i], labels[i], molecules.smiles[i], same, spread == 0)
            lines.append((*head, spread, *molecules.y_true[i]))
    columns = ["group", "structure", "row", "part", "smiles", "canonical", "agree", "spread"]
    return pd.DataFrame(lines, columns=[*columns, *(f"y_true_{target}" for target in molecules.dataset.targets)])


def _spread(y_true: np.ndarray) -> float:
    """Largest difference between two labels of a target, over (rows, K); 0 where no target has two labels."""
    known = y_true[:, (~np.isnan(y_true)).sum(axis=0) > 1]
    return float((np.nanmax(known, axis=0) - np.nanmin(known, axis=0)).max()) if known.size else 0.0


def leakage(molecules: Molecules, facts: MoleculeFacts, split: Split) -> pd.DataFrame:
    """Every pair of a test row and a row of train or valid that are one structure, and whether their labels agree."""
    labels = split.labels()
    test = np.zeros(len(labels), dtype=bool)
    test[split.test] = True
    lines = []
    for group in facts.groups():
        for tested in group[test[group]]:
            for seen in group[~test[group]]:
                spread = _spread(molecules.y_true[[tested, seen]])
                same = facts.canonical[tested] == facts.canonical[seen]
                head = (facts.structure[tested], molecules.rows[tested], labels[tested], molecules.smiles[tested])
                own = (molecules.rows[seen], labels[seen], molecules.smiles[seen])
                lines.append((*head, *own, same, spread == 0, spread))
    columns = "structure row part smiles seen_row seen_part seen_smiles canonical agree spread".split()
    return pd.DataFrame(lines, columns=columns)


def similarity(molecules: Molecules, split: Split) -> pd.DataFrame:
    """Every test molecule with the training molecule most like it (Tanimoto, Morgan fingerprints)."""
    prints = fingerprints(molecules.smiles)
    place, value = nearest([prints[i] for i in split.test], [prints[i] for i in split.train])
    own = split.train[place]
    return pd.DataFrame(
        {
            "row": molecules.rows[split.test],
            "part": split.labels()[split.test],
            "smiles": [molecules.smiles[i] for i in split.test],
            "nearest_row": molecules.rows[own],
            "nearest_smiles": [molecules.smiles[i] for i in own],
            "tanimoto": value,
        }
    )


def summarize(
    molecules: Molecules,
    facts: MoleculeFacts,
    split: Split,
    found: pd.DataFrame,
    leaks: pd.DataFrame,
    close: pd.DataFrame,
) -> dict[str, Any]:
    """The audit in figures."""
    groups = found.drop_duplicates("group")
    n = len(facts.structure)
    quartiles = close["tanimoto"].quantile([0.25, 0.5, 0.75]).tolist()
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
                target: _described(y_true[:, index], molecules.dataset.task == "classification")
                for index, target in enumerate(molecules.dataset.targets)
            },
        },
        "duplicates": {
            "same_structure": n - len(set(facts.structure)),
            "same_canonical_smiles": n - len(set(facts.canonical)),
            "groups": len(groups),
            "groups_that_agree": int(groups["agree"].sum()),
            "largest_spread": float(groups["spread"].max()) if len(groups) else 0.0,
            "median_spread": float(groups["spread"].median()) if len(groups) else 0.0,
        },
        "split": {"kind": split.kind, "sha256": split.sha256, "sizes": split.sizes},
        "leakage": {
            "test_molecules": len(split.test),
            "same_structure": int(leaks["row"].nunique()),
            "same_canonical_smiles": int(leaks[leaks["canonical"].astype(bool)]["row"].nunique()),
            "with_another_label": int(leaks[~leaks["agree"].astype(bool)]["row"].nunique()),
        },
        "similarity": {"quartiles": quartiles, "share_above_0.9": float((close["tanimoto"] > 0.9).mean())},
    }


def _described(labels: np.ndarray, classes: bool) -> dict[str, float]:
    known = labels[~np.isnan(labels)]
    head: dict[str, float] = {"labels": len(known), "mean": float(known.mean())} if len(known) else {"labels": 0}
    if len(known) and not classes:
        head |= {"sd": float(known.std()), "min": float(known.min()), "max": float(known.max())}
    return head


def text(summary: dict[str, Any], molecules: Molecules, folder: Path) -> str:
    """The audit as a person reads it."""
    rows, smiles, leak = summary["rows"], summary["smiles"], summary["leakage"]
    low, middle, high = summary["similarity"]["quartiles"]
    sizes = " / ".join(f"{size} {part}" for part, size in summary["split"]["sizes"].items())
    return "\n".join(
        [
            f"{summary['dataset']['name']}: {rows['read']} rows read, {rows['kept']} kept, {rows['rejected']} rejected",
            *(f"  row {own.row}: {own.smiles[:50]!r}: {own.reason}" for own in molecules.rejected[:3]),
            *(["  ..."] if rows["rejected"] > 3 else []),
            f"molecules   {smiles['salts_or_mixtures']} salts or mixtures, {smiles['undefined_stereo']} with undefined"
            f" stereo, {smiles['one_or_two_atoms']} of one or two atoms;",
            f"            {smiles['padded']} SMILES with blanks around them, the longest of {smiles['longest']}"
            " characters",
            f"labels      {summary['labels']['missing']} missing",
            *_duplicates_text(summary["duplicates"], summary["dataset"]["kind"] == "regression"),
            f"split       {summary['split']['kind']}, seed {summary['seed']}: {sizes}",
            f"leakage     of {leak['test_molecules']} test molecules {leak['same_canonical_smiles']} are in train or"
            f" valid by canonical SMILES, {leak['same_structure']} by InChIKey, {leak['with_another_label']} with"
            " another label",
            f"distance    Tanimoto similarity of a test molecule to the nearest in train: {middle:.2f} at the median,"
            f" {low:.2f} to {high:.2f} for the middle half",
            f"written     {folder}",
        ]
    )


def _duplicates_text(found: dict[str, Any], regression: bool) -> list[str]:
    if not found["groups"]:
        return ["duplicates  none"]
    spread = f", by {found['median_spread']:.2g} at the median and {found['largest_spread']:.2g} at most"
    return [
        f"duplicates  further rows of a structure: {found['same_structure']} by InChIKey,"
        f" {found['same_canonical_smiles']} by canonical SMILES",
        f"            structures that stand more than once: {found['groups']}; labels agree in"
        f" {found['groups_that_agree']} and differ in {found['groups'] - found['groups_that_agree']}"
        + (spread if regression else ""),
    ]
