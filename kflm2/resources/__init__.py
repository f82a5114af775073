"""Files that come with the package: prompts, search spaces, the embedded LLM's adapter, models, the style of plots.

The user's own files of the same names go first: prompt/, hyperparameter/ and models/ of the project's folder.
"""

from importlib import resources
from pathlib import Path

from kflm2.files import project_folder

MANIFEST = "bundle.json"
"""File of a saved model that says what it is made of."""
CATALOGUE = "catalogue"
"""Folder of the models that come with the package."""
REFERENCE = "reference_molecules.smi"
"""Molecules of which saved models keep what RDKit computes; dataset/make_reference_molecules.py makes it."""


def find(folder: str, name: str) -> Path:
    """A file that a user may replace.

    Args:
        folder: of the project, where the user's own file may be.
        name: of the file, there and in the package.

    Returns:
        The user's file where there is one, else the package's.
    """
    path = project_folder() / folder / name
    return path if path.is_file() else packaged(name)


def packaged(name: str) -> Path:
    """A file or folder of the package, on disk."""
    return Path(str(resources.files(__package__).joinpath(name)))


def catalogue() -> list[Path]:
    """The folders of the models that come with the package, by name."""
    return sorted(path.parent for path in packaged(CATALOGUE).glob(f"*/{MANIFEST}"))


def saved_model(model: Path) -> Path:
    """The folder of a saved model: the path itself, or, where no model is there, the packaged model of this name."""
    folder = packaged(CATALOGUE) / model.name
    own = (model / MANIFEST).is_file() or len(model.parts) != 1
    return model if own or not (folder / MANIFEST).is_file() else folder
