"""The package installed by pip from a wheel, outside a checkout: it contains the files that the stages need."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from commands import ROOT, one_thread


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
    assert {"prompts.toml", "space.toml", "grid.toml", "plots.mplstyle", "reference_molecules.smi"} <= resources
    assert {
        f"{adapter}/adapter_config.json",
        f"{adapter}/adapter_model.safetensors",
        f"{adapter}/kflm2.json",
    } <= resources
    for model in ("hydration", "solubility", "logd"):
        assert {
            f"catalogue/{model}/{name}" for name in ("README.md", "bundle.json", "weights.safetensors")
        } <= resources
    assert "catalogue/README.md" in resources
    assert "kflm2/stages/report/static/page.html" in names
    assert {f"kflm2/stages/serve/static/{name}" for name in ("page.html", "page.js", "page.css", "api.txt")} <= set(
        names
    )
    assert not [name for name in names if name.startswith(("tests", "benchmark", "docs", "dataset"))]


@pytest.mark.skipif(sys.platform == "win32", reason="an environment has its programs in another folder")
@pytest.mark.usefixtures("embedded")
def test_stages_run_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    work, own = tmp_path / "work", tmp_path / "own"
    work.mkdir()
    table = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(40)[["smiles", "expt"]]
    table.to_csv(tmp_path / "own.csv", index=False)
    # the user's files take precedence
    (own / "hyperparameter").mkdir(parents=True)
    (own / "hyperparameter" / "space.toml").write_text("[hidden]\nchoices = [20]\n[epochs]\nchoices = [1]\n")

    def run(program: str, *arguments: str) -> str:
        environment = one_thread()
        environment.pop("PYTHONPATH", None)
        completed = subprocess.run(
            [installed / program, *arguments], cwd=work, env=environment, capture_output=True, text=True, timeout=200
        )
        assert completed.returncode == 0, completed.stderr[-2000:]
        return completed.stdout

    data = ("--csv", str(tmp_path / "own.csv"), "--target-columns", "expt", "--llm", "SmolLM2_135M")
    printed = run("kflm2", "train", *data, "--model", "combined", "--epochs", "1", "--ensemble", "1", "--save", "model")
    adapter = installed.parent.resolve() / printed.split("adapter: ")[1].splitlines()[0]
    assert adapter.parts[-4:] == ("resources", "models", "SmolLM2_135M", "leads_and_drugs")
    assert adapter.is_relative_to(installed.parent.resolve())
    # the other stages in one process, since each spends seconds on importing torch
    tune = ("tune", *data, "--model", "gcn_indepent", "--trials", "1", "--inner-splits", "1")
    prompt = ("prompt", *data, "--epochs", "0", "--smiles-variants", "0", "--compare", "none")
    code = "import os, sys, kflm2; from kflm2.cli.main import main; print(kflm2.__file__)"
    for folder, command in ((work, ("predict", "model", "CCO", "c1ccccc1")), (work, tune), (work, prompt), (own, tune)):
        code += f"; print('<next>'); os.chdir({str(folder)!r}); sys.argv = {['kflm2', *command]}; main()"
    module_path, predicted, tuned, prompted, own_tuned = run("python", "-c", code).split("<next>")
    assert Path(module_path.strip()).is_relative_to(installed.parent)
    assert "CCO,1" not in predicted and (work / "model").is_dir()
    assert "1 trials: 1 completed" in tuned
    assert "prompt plain" in prompted and "3 paraphrases more" in prompted
    assert "hidden 20" in own_tuned
