"""The registry of datasets: one entry per dataset, no code per dataset."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kflm2.errors import DataError, one_of
from kflm2.files import project_folder

Task = Literal["regression", "classification"]


@dataclass(frozen=True)
class File:
    """A CSV file of a dataset."""

    path: Path
    sha256: str = ""
    """Digest of the published file; '' for a user's table."""
    part: str = ""
    """`train`, or `test_NAME` for a test set of the dataset; '' if the dataset is not split."""


@dataclass(frozen=True)
class Dataset:
    """A table, and the columns that are read from it."""

    name: str
    files: tuple[File, ...]
    """Read in this order; several where the dataset has its own test sets."""
    targets: tuple[str, ...]
    """Columns to predict."""
    unit: str = ""
    """Unit of the targets, for tables and axes."""
    task: Task = "regression"
    smiles_column: str = "smiles"
    quantity: str = ""
    """What the target is, in words."""
    more_targets: tuple[str, ...] = ()
    """Further columns that can be chosen as targets."""
    classes: tuple[tuple[str, str], ...] = ()
    """Of each target the words of class 0 and of class 1; () where these are 0 and 1."""

    @property
    def path(self) -> Path:
        """The first file."""
        return self.files[0].path

    @property
    def brings_tests(self) -> bool:
        """Whether the files define test sets."""
        return any(file.part for file in self.files)

    def with_targets(self, targets: tuple[str, ...]) -> "Dataset":
        """The same dataset with other targets.

        Raises:
            SettingError: the dataset has no such target.
        """
        for target in targets:
            one_of(f"target of {self.name}", target, (*self.targets, *self.more_targets))
        return dataclasses.replace(self, targets=targets)


def _file(name: str, sha256: str, part: str = "") -> File:
    return File(Path(name), sha256, part)


_TOX21 = (
    "NR-AR NR-AR-LBD NR-AhR NR-Aromatase NR-ER NR-ER-LBD NR-PPAR-gamma SR-ARE SR-ATAD5 SR-HSE SR-MMP SR-p53"
).split()

_SIDER = (
    "Hepatobiliary disorders",
    "Metabolism and nutrition disorders",
    "Product issues",
    "Eye disorders",
    "Investigations",
    "Musculoskeletal and connective tissue disorders",
    "Gastrointestinal disorders",
    "Social circumstances",
    "Immune system disorders",
    "Reproductive system and breast disorders",
    "Neoplasms benign, malignant and unspecified (incl cysts and polyps)",
    "General disorders and administration site conditions",
    "Endocrine disorders",
    "Surgical and medical procedures",
    "Vascular disorders",
    "Blood and lymphatic system disorders",
    "Skin and subcutaneous tissue disorders",
    "Congenital, familial and genetic disorders",
    "Infections and infestations",
    "Respiratory, thoracic and mediastinal disorders",
    "Psychiatric disorders",
    "Renal and urinary disorders",
    "Pregnancy, puerperium and perinatal conditions",
    "Ear and labyrinth disorders",
    "Cardiac disorders",
    "Nervous system disorders",
    "Injury, poisoning and procedural complications",
)

_REGISTRY = (
    Dataset(
        "SAMPL",
        (_file("SAMPL.csv", "a4fbf3b28fe2e604d6bd7ea0e20b4494ff732400a80f58d1b393677cfbc1b06c"),),
        ("expt",),
        "kcal/mol",
        quantity="hydration free energy",
    ),
    Dataset(
        "Delaney",
        (_file("delaney-processed.csv", "8c06a76f0c6487d29ab0f903e6a7a7139f189ab3c1178f159c8be8964602f189"),),
        ("measured log solubility in mols per litre",),
        "log mol/L",
        quantity="solubility in water",
    ),
    Dataset(
        "Lipophilicity",
        (_file("Lipophilicity.csv", "3d2a409dc8bdf620876bb7257faf4996df29a19dd0244d0b4a6a8064c306cded"),),
        ("exp",),
        quantity="log D at pH 7.4",
    ),
    Dataset(
        "Llinas",
        (
            _file(
                "aqsol_llinas_train.csv", "8960be8a5dc5f1a8f343a4b401121a832d348aaeeafdd89aa5d26201a9a5051d", "train"
            ),
            _file(
                "llinas2020_set1_test.csv",
                "c7f346b46f8368dfe1e57fcaf788eac3ecfdcb046613f2b1be01581edd72ddf6",
                "test_set1",
            ),
            _file(
                "llinas2020_set2_test.csv",
                "7c3e8fc7e1a534ef9a16a50dd2b3773aa8c0273918aa99e1325fdade276d1c9a",
                "test_set2",
            ),
        ),
        ("y",),
        "log mol/L",
        quantity="solubility in water",
    ),
    Dataset(
        "Warrior",
        (_file("DataWarrior.csv", "6970d2e467e5a9fd1d5dd0ecf342df55be74e52d837b78ffab3f16ba2b99c012"),),
        ("pKa",),
        quantity="pKa",
    ),
    Dataset(
        "BACE",
        (_file("bace.csv", "9f8cb516daf4f916b38c9fe6a0191160713bf9392e415e8bef89d648064ea6a3"),),
        ("label",),
        task="classification",
        smiles_column="SMILES",
        quantity="inhibits beta-secretase 1",
    ),
    Dataset(
        "BBBP",
        (_file("BBBP.csv", "6aecd84110e8c0549bc4e2e486c52267d4e775178fca8999f5465029e31e75bb"),),
        ("p_np",),
        task="classification",
        quantity="crosses the blood-brain barrier",
    ),
    Dataset(
        "ClinTox",
        (_file("clintox.csv", "9999816e760dd838358b5d88e81cea2fc062be4458ffa412ceecdba4f88a67b6"),),
        ("CT_TOX",),
        task="classification",
        quantity="failed a clinical trial for toxicity",
        more_targets=("FDA_APPROVED",),
    ),
    Dataset(
        "Tox21",
        (_file("tox21.csv", "7d7e7facd853a63e79ddce4e9c3fcb7a0d83a1c300b603031c0f2c64fbe77761"),),
        tuple(_TOX21),
        task="classification",
        quantity="active in 12 toxicity assays",
    ),
    Dataset(
        "SIDER",
        (_file("sider.csv", "71efc6ac4ca82d6545bc512509863281be0f17234afd7adaf71a71899988302e"),),
        _SIDER,
        task="classification",
        quantity="side effects in 27 organ classes",
    ),
    Dataset(
        "HIV",
        (_file("hiv.csv", "8f6e89bcc4b1802afa3c5d2e1a73ea35a8f571a6d5b529ece8841bc2170350d5"),),
        ("label",),
        task="classification",
        smiles_column="SMILES",
        quantity="inhibits HIV replication",
    ),
)

DATASETS = {dataset.name: dataset for dataset in _REGISTRY}


def dataset_folders() -> list[Path]:
    """Folders that are searched for datasets' files: $KFLM2_DATASETS first, if set, then dataset/ of the checkout."""
    folder = os.environ.get("KFLM2_DATASETS")
    return [*([Path(folder)] if folder else []), project_folder() / "dataset"]


def locate(name: str) -> tuple[Dataset, list[str]]:
    """A dataset of the registry with the paths of its files, and the names of the files that are missing.

    Raises:
        SettingError: no such dataset.
    """
    one_of("dataset", name, tuple(DATASETS))
    files, missing = [], []
    for file in DATASETS[name].files:
        candidates = [folder / file.path for folder in dataset_folders()]
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            missing.append(file.path.name)
        files.append(dataclasses.replace(file, path=path or candidates[-1]))
    return dataclasses.replace(DATASETS[name], files=tuple(files)), missing


def find(name: str) -> Dataset:
    """A dataset of the registry with the paths of its files.

    Raises:
        SettingError: no such dataset.
        DataError: a file of the dataset is missing.
    """
    dataset, missing = locate(name)
    if missing:
        folders = " or ".join(str(folder) for folder in dataset_folders())
        raise DataError(
            f"dataset {name}: no file {missing[0]} in {folders}; `kflm2 datasets get {name}` downloads it,"
            " `--from FOLDER` copies it"
        )
    return dataset
