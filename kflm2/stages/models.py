"""`kflm2 models`: the models that come with the package; `kflm2 models pack`: a model to be given away."""

from pathlib import Path

from kflm2.config.models import ModelsConfig, PackConfig
from kflm2.errors import SettingError
from kflm2.predictor.bundle import saved_as
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.export import card
from kflm2.predictor.manifest import JSON, read_manifest
from kflm2.resources import CATALOGUE, packaged
from kflm2.text_table import aligned


def overview(config: ModelsConfig) -> None:
    """Print a line for each model that comes with kflm2."""
    rows: list[tuple[str, ...]] = [("model", "predicts", "learnt from", "molecules", "error", "of", "size")]
    folders = sorted(path.parent for path in packaged(CATALOGUE).glob(f"*/{JSON}"))
    rows += [_line(folder) for folder in folders]
    print("\n".join(aligned(rows, left=(0, 1, 2, 5))))
    print(
        "\nerror: RMSE of test molecules, before the models were trained once more on all molecules"
        "\nkflm2 predict MODEL CCO c1ccccc1; kflm2 predict MODEL molecules.csv -o predicted.csv"
        f"\nHow each was made, and how far to trust it: README.md in {packaged(CATALOGUE)}/MODEL"
    )


def _line(folder: Path) -> tuple[str, ...]:
    manifest = read_manifest(folder)
    made = manifest["made"]
    size = sum(path.stat().st_size for path in folder.iterdir())
    tests = made["split"]["sizes"]
    # the larger test set of a dataset that has two
    part = max((name for name in tests if name.startswith("test")), key=lambda name: tests[name])
    return (
        folder.name,
        f"{made['quantity']}, {manifest['unit']}",
        made["dataset"]["name"],
        f"{made.get('refit', made['rows']['kept']):,}",
        f"{made['metrics'][part]['RMSE']:.2f}",
        f"{tests[part]} molecules, {made['split']['kind']} split",
        f"{size / 1e6:.1f} MB",
    )


def pack(config: PackConfig) -> None:
    """Write a copy of a saved model without the SMILES that it learnt from; see Bundle.pack.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the model cannot be used, or the folder cannot be written.
    """
    assert config.save is not None
    if saved_as(config.save) is not None and not config.again:
        raise SettingError(f"save: {config.save} holds a model: name another folder, or replace it by --again")
    bundle = load_bundle(config.model, config.llm).pack()
    bundle.save(config.save, card(bundle, config.save.name))
    size = sum(path.stat().st_size for path in config.save.rglob("*") if path.is_file())
    print(f"packed    {config.save}, {size / 1e6:.1f} MB: kflm2 predict {config.save} molecules.csv -o predicted.csv")
