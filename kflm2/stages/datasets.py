"""`kflm2 datasets`: an overview of the datasets; `kflm2 datasets get`: download of their files."""

import numpy as np

from kflm2 import text_table
from kflm2.config.datasets import DownloadConfig, OverviewConfig
from kflm2.data import download as downloads
from kflm2.data.datasets import DATASETS, Dataset, locate
from kflm2.data.molecules import Molecules
from kflm2.data.reading import read_table
from kflm2.errors import DataError
from kflm2.files import sha256_file
from kflm2.stages.audit.molecule_facts import MoleculeFacts


def download(config: DownloadConfig) -> None:
    """Download the files of datasets; see data/download.py.

    Raises:
        KFLM2Error: an unknown name, or a file that cannot be downloaded or is not the published one.
    """
    downloads.get(config.names, config.source)


def overview(config: OverviewConfig) -> None:
    """Print one line per dataset: whether its files are present, and counts of its rows, targets and molecules.

    Raises:
        SettingError: no such dataset.
    """
    lines: list[tuple[str, ...]] = [
        ("dataset", "rows", "rejected", "targets", "missing", "active", "duplicates", "salts", "stereo open")
    ]
    names = () if "all" in config.names else config.names
    for name in names or tuple(DATASETS):
        dataset, missing = locate(name)
        if missing:
            lines.append((name, f"not here: {', '.join(missing)}; get it with `kflm2 datasets get {name}`"))
        else:
            try:
                lines.append((name, *_line(dataset)))
            except DataError as error:
                lines.append((name, f"cannot be used: {error}"))
    print("\n".join(text_table.aligned(lines, left=(0, 3))))
    print(
        "\nmissing: labels; active: share of class 1 (lowest to highest of several targets); duplicates: further rows"
        "\nof a structure that is in the table already (InChIKey); salts: molecules of several fragments; stereo open:"
        "\nmolecules with an undefined stereo centre or double bond. The rows: kflm2 datasets audit NAME"
    )


def _line(dataset: Dataset) -> tuple[str, ...]:
    molecules = read_table(dataset)
    facts = MoleculeFacts.of(molecules.smiles)
    published = all(sha256_file(file.path) == file.sha256 for file in dataset.files)
    unit = dataset.unit or ("classes" if dataset.task == "classification" else "no unit")
    return (
        str(molecules.read),
        str(len(molecules.rejected)),
        f"{len(dataset.targets)} ({unit}){'' if published else ', not the published file'}",
        str(molecules.missing),
        _active(molecules),
        str(len(facts.structure) - len(set(facts.structure))),
        str(int(facts.mixture.sum())),
        str(int(facts.undefined.sum())),
    )


def _active(molecules: Molecules) -> str:
    if molecules.dataset.task == "regression":
        return "-"
    shares = 100 * np.nanmean(molecules.y_true, axis=0)
    low, high = shares.min(), shares.max()
    return f"{low:.1f} %" if len(shares) == 1 else f"{low:.1f}-{high:.1f} %"
