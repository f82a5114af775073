"""bundle.json of a saved model: what it says before the model is loaded. Nothing heavy is imported here."""

import contextlib
from pathlib import Path
from typing import Any

from kflm2 import resources
from kflm2.data.columns import SMILES
from kflm2.errors import KFLM2Error, did_you_mean
from kflm2.files import read_json

JSON = resources.MANIFEST


class BundleError(KFLM2Error):
    """A bundle that cannot be used."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of bundle.json, not checked.

    Args:
        folder: of the bundle, or the name of one that comes with kflm2.

    Raises:
        BundleError: there is none, or it is not JSON.
    """
    folder = resources.saved_model(folder)
    if not (folder / JSON).is_file():
        hint = (
            did_you_mean(folder.name, [model.name for model in resources.catalogue()]) if len(folder.parts) == 1 else ""
        )
        raise BundleError(
            f"{folder} is no bundle: no {JSON} in it{hint}; make one with kflm2 train ... --save {folder}, or take one"
            " of `kflm2 models`"
        )
    return read_json(folder / JSON, "bundle", BundleError)


def input_columns(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The column of SMILES, and those beside it, that a model reads by its own account.

    Raises:
        BundleError: see read_manifest.
    """
    manifest, names = read_manifest(folder), tuple[str, ...]()
    with contextlib.suppress(TypeError, KeyError):  # what is damaged is refused when the model is loaded
        names = tuple(str(record["name"]) for record in manifest.get("covariates", ()))
    return smiles_column(manifest.get("made")), names


def smiles_column(made: Any) -> str:
    """The column of SMILES of the table that a model was trained on.

    Args:
        made: what the bundle says of how it was made.
    """
    config = made.get("config") if isinstance(made, dict) else None
    column = config.get("smiles_column") if isinstance(config, dict) else None
    return column if isinstance(column, str) else SMILES
