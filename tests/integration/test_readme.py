"""The README's quickstart and its example for scikit-learn do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(heading: str, number: int = 0) -> str:
    """The indented lines under a heading."""
    text = README.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0].split("\n### ", 1)[0]
    blocks = re.findall(r"(?:^ {4}.*\n)+(?:^\n(?:^ {4}.*\n)+)*", text, flags=re.MULTILINE)
    return "".join(line[4:] for line in blocks[number].splitlines(keepends=True) if line.strip())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that looks like the project's, in which commands may write."""
    os.symlink(ROOT / "dataset", tmp_path / "dataset")
    return tmp_path


def _run(command: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250)


@pytest.mark.usefixtures("embedded")
def test_the_quickstart_works_as_it_stands(project: Path) -> None:
    commands = [line.partition("#")[0].strip() for line in _block("## In five minutes").splitlines()]
    assert [command.split()[:2] for command in commands if command.startswith("kflm2")] == [
        ["kflm2", stage] for stage in ("train", "predict", "predict", "explain", "report")
    ]
    for command in commands:
        # as it stands, but for the minutes that training takes
        small = " --limit 60 --epochs 2 --ensemble 2" if " train " in f" {command}" else ""
        done = _run(command + small, project)
        assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    assert "CC(=O)Oc1ccccc1C(=O)O" in _run("kflm2 predict model 'CC(=O)Oc1ccccc1C(=O)O'", project).stdout
    predicted = pd.read_csv(project / "predicted.csv")
    assert (predicted["status"] == "ok").all() and predicted["expt"].notna().all()
    assert (project / "explained" / "001.png").is_file()
    assert (project / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.usefixtures("embedded")
def test_the_example_for_scikit_learn_works(project: Path) -> None:
    code = _block("### scikit-learn")
    assert "cross_val_score(KFLM2Regressor(" in code
    # as it stands, on a few molecules
    prelude = "import pandas as pd; table = pd.read_csv('dataset/SAMPL.csv').head(40)\n"
    prelude += "smiles, y = table['smiles'], table['expt']\n"
    (project / "example.py").write_text(prelude + code.replace("KFLM2Regressor(", "KFLM2Regressor(epochs=2, "))
    done = _run(f"{sys.executable} example.py", project)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("0.") + done.stdout.count("-") >= 5
