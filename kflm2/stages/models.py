"""`kflm2 models`: the models that come with the package."""

from pathlib import Path

from kflm2.config.models import ModelsConfig
from kflm2.predictor.manifest import read_manifest
from kflm2.resources import CATALOGUE, catalogue, packaged
from kflm2.text_table import aligned


def run(config: ModelsConfig) -> None:
    """Print a line for each model that comes with kflm2."""
    rows: list[tuple[str, ...]] = [("model", "predicts", "learnt from", "molecules", "error", "of", "size")]
    rows += [_line(folder) for folder in catalogue()]
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
    return (
        folder.name,
        ", ".join(filter(None, (made["quantity"], manifest["unit"]))),
        made["dataset"]["name"],
        f"{made.get('refit', made['rows']['kept']):,}",
        f"{made['metrics']['test']['RMSE']:.2f}",
        f"{tests['test']} molecules, {made['split']['kind']} split",
        f"{size / 1e6:.1f} MB",
    )
