"""The package installed by pip from a wheel, outside a checkout: it contains the files that the stages need."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build in the checkout would include files of an earlier build."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "kflm2", source / "kflm2", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(source / "dist"), str(source)], check=True, timeout=100)
    (path,) = (source / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = next(folder.resolve().glob("lib/python*/site-packages"))
    # a plain path: .pth files in it, such as that of an editable install, are not followed
    (packages / "dependencies.pth").write_text(str(Path(pd.__file__).parents[1]))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, timeout=100)
    return folder / "bin"


def test_the_wheel_contains_the_package_and_its_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    resources = {name.removeprefix("kflm2/resources/") for name in names if name.startswith("kflm2/resources/")}
    adapter = "models/SmolLM2_135M/leads_and_drugs"
    assert {"prompts.toml", "space.toml", "grid.toml", "plots.mplstyle"} <= resources
    assert {
        f"{adapter}/adapter_config.json",
        f"{adapter}/adapter_model.safetensors",
        f"{adapter}/kflm2.json",
    } <= resources
    assert "kflm2/stages/report/static/page.html" in names
    assert {f"kflm2/stages/serve/static/{name}" for name in ("page.html", "page.js", "page.css", "api.txt")} <= set(
        names
    )
    assert not [name for name in names if name.startswith(("tests", "benchmark", "docs", "dataset"))]


@pytest.mark.skipif(sys.platform == "win32", reason="an environment has its programs in another folder")
@pytest.mark.usefixtures("embedded")
def test_stages_run_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    table = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(40)[["smiles", "expt"]]
    table.to_csv(work / "own.csv", index=False)

    def run(program: str, *arguments: str) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        completed = subprocess.run(
            [installed / program, *arguments], cwd=work, env=environment, capture_output=True, text=True, timeout=200
        )
        assert completed.returncode == 0, completed.stderr[-2000:]
        return completed.stdout

    module_path = run("python", "-c", "import kflm2; print(kflm2.__file__)")
    assert Path(module_path.strip()).is_relative_to(installed.parent)
    data = ("--csv", "own.csv", "--target-columns", "expt", "--llm", "SmolLM2_135M")
    printed = run("kflm2", "train", *data, "--model", "combined", "--epochs", "1", "--ensemble", "1", "--save", "model")
    adapter = installed.parent.resolve() / printed.split("adapter: ")[1].splitlines()[0]
    assert adapter.parts[-4:] == ("resources", "models", "SmolLM2_135M", "leads_and_drugs")
    assert adapter.is_relative_to(installed.parent.resolve())
    assert "CCO,1" not in run("kflm2", "predict", "model", "CCO", "c1ccccc1") and (work / "model").is_dir()
    tuned = run("kflm2", "tune", *data, "--model", "gcn_indepent", "--trials", "1", "--inner-splits", "1")
    assert "1 trials: 1 completed" in tuned
    prompted = run("kflm2", "prompt", *data, "--epochs", "0", "--smiles-variants", "0", "--compare", "none")
    assert "prompt plain" in prompted and "3 paraphrases more" in prompted

    # the user's files take precedence
    (work / "hyperparameter").mkdir()
    (work / "hyperparameter" / "space.toml").write_text("[hidden]\nchoices = [20]\n[epochs]\nchoices = [1]\n")
    tuned = run(
        "kflm2", "tune", *data, "--model", "gcn_indepent", "--trials", "1", "--inner-splits", "1", "--out", "other"
    )
    assert "hidden 20" in tuned
