"""Tables of molecules, read and checked row by row; every rejected row is recorded."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kflm2.data import compression, sdf
from kflm2.data.cells import Labels, read_classes, read_numbers, read_plain_numbers
from kflm2.data.covariates import read_covariate
from kflm2.data.datasets import Dataset
from kflm2.data.molecules import Molecules, Rejection, none_left, parse_smiles, smiles_of_block
from kflm2.data.parts import PARTS
from kflm2.data.tables import Table, read_columns
from kflm2.errors import DataError, MoleculeError
from kflm2.files import sha256_texts


def read_table(
    dataset: Dataset,
    split_column: str | None = None,
    limit: int | None = None,
    qualifier_columns: Sequence[str] = (),
    weight_column: str | None = None,
    feature_columns: Sequence[str] = (),
) -> Molecules:
    """Read a dataset's files and check every row.

    Args:
        dataset: the files and their columns.
        split_column: column with the part of each row (train, valid, test or test_NAME), for a given split.
        limit: use only the first rows of each file.
        qualifier_columns: a column for each target that says which labels are bounds; none where there are none.
        weight_column: column of weights in training.
        feature_columns: columns that are read beside the structure.

    Raises:
        DataError: no such file or column, an empty file, no valid molecule, a target that is not a number, or an
            invalid part, weight or feature.
    """
    more = [*qualifier_columns, *([split_column] if split_column else []), *([weight_column] if weight_column else [])]
    wanted = list(dict.fromkeys([dataset.smiles_column, *dataset.targets, *more, *feature_columns]))
    raw_smiles: list[str] = []
    unread: dict[int, str] = {}
    """Index -> reason why there is no SMILES."""
    labels: list[list[Labels]] = []
    """Of each file those of each target."""
    weights: list[np.ndarray] = []
    features: dict[str, list[str]] = {name: [] for name in feature_columns}
    parts: list[str] = []
    rows: list[int] = []
    first_row = 1
    for file in dataset.files:
        full_table = read_columns(file.path, wanted, dataset.smiles_column)
        table = full_table.head(limit)
        rows += range(first_row, first_row + len(table))
        first_row += len(full_table)
        cells = table.columns[dataset.smiles_column]
        raw_smiles += _from_blocks(cells, len(raw_smiles), unread) if sdf.is_sdf(file.path) else cells
        labels.append(_labels(dataset, table, qualifier_columns))
        if weight_column:
            weights.append(_weights(table, weight_column))
        for name in feature_columns:
            features[name] += table.columns[name]
        parts += _parts(table, split_column) if split_column else [file.part] * len(table)
    smiles = [text.strip() for text in raw_smiles]
    y_true, *bounds = (
        np.concatenate([np.stack([getattr(target, name) for target in file], axis=1) for file in labels])
        for name in ("values", "lower", "upper")
    )
    covariates = [read_covariate(texts, name, str(dataset.path)) for name, texts in features.items()]
    is_label = ~np.isnan(y_true) | ~np.isnan(bounds).all(axis=0)

    valid: list[int] = []
    rejected: list[Rejection] = []
    for index, text in enumerate(smiles):
        try:
            if index in unread:
                raise MoleculeError(unread[index])
            parse_smiles(text)
            if not is_label[index].any():
                raise MoleculeError("no target value")
        except MoleculeError as error:
            rejected.append(Rejection(rows[index], text, str(error)))
        else:
            valid.append(index)
    if not valid:
        raise DataError(none_left(dataset.path, tuple(rejected)))
    classes = tuple(target.classes for target in labels[0])
    return Molecules(
        dataset=replace(dataset, classes=classes) if any(pair != ("0", "1") for pair in classes) else dataset,
        sha256=_digest(dataset),
        read=len(smiles),
        rows=np.array(rows)[valid],
        smiles=[smiles[i] for i in valid],
        y_true=y_true[valid],
        parts=[parts[i] for i in valid] if split_column or dataset.brings_tests else None,
        rejected=tuple(rejected),
        missing=int((~is_label).sum()),
        padded=sum(text != raw for text, raw in zip(smiles, raw_smiles, strict=True)),
        bounds=None if np.isnan(bounds).all() else np.stack(bounds)[:, valid],
        weights=np.concatenate(weights)[valid] if weights else None,
        notes=tuple(
            dict.fromkeys(
                [
                    *(note for file in labels for target in file for note in target.notes),
                    *(note for _, _, notes in covariates for note in notes),
                ]
            )
        ),
        covariates=np.stack([values for _, values, _ in covariates], axis=1)[valid] if covariates else None,
        covariate_columns=tuple(column for column, _, _ in covariates),
    )


def _labels(dataset: Dataset, table: Table, qualifier_columns: Sequence[str]) -> list[Labels]:
    """The labels of each target."""
    if dataset.task == "classification":
        return [read_classes(table.columns[target], target, str(table.path)) for target in dataset.targets]
    columns: list[list[str] | None] = [table.columns[name] for name in qualifier_columns]
    columns = columns or [None] * len(dataset.targets)
    return [
        read_numbers(table.columns[target], target, str(table.path), qualifiers)
        for target, qualifiers in zip(dataset.targets, columns, strict=True)
    ]


def _weights(table: Table, column: str) -> np.ndarray:
    """(n,) weights of the rows; a blank one is 0."""
    values = np.nan_to_num(read_plain_numbers(table.columns[column], column, str(table.path), "a weight")[0])
    for row in np.flatnonzero(values < 0):
        raise DataError(f"{table.path}: row {row + 1}: column {column!r} is {values[row]:g}; a weight is 0 or more")
    if not values.any():
        raise DataError(f"{table.path}: all weights in column {column!r} are 0")
    return values


def _from_blocks(blocks: list[str], first: int, unread: dict[int, str]) -> list[str]:
    """The SMILES of SDF blocks, '' for one that cannot be read; its reason goes into `unread`, counted from `first`."""
    smiles = []
    for index, block in enumerate(blocks, first):
        try:
            smiles.append(smiles_of_block(block))
        except MoleculeError as error:
            smiles.append("")
            unread[index] = str(error)
    return smiles


def _parts(table: Table, column: str) -> list[str]:
    """The parts in a split column."""
    parts = [text.strip() for text in table.columns[column]]
    for row, part in enumerate(parts, 1):
        if part not in PARTS and not part.startswith("test_"):
            raise DataError(
                f"{table.path}: row {row}: column {column!r} is {part!r}; a part is train, valid, test or test_NAME"
            )
    return parts


def _digest(dataset: Dataset) -> str:
    """SHA-256 of the file's decompressed bytes; for several files, of their digests."""
    digests = [compression.sha256(file.path) for file in dataset.files]
    return digests[0] if len(digests) == 1 else sha256_texts(digests)
