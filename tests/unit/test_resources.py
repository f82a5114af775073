"""Files of the package, and the user's own in their place."""

from pathlib import Path

import pytest

from kflm2 import resources


def test_a_users_file_goes_before_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "project_folder", lambda: tmp_path)
    packaged = resources.find("hyperparameter", "space.toml")
    assert packaged == resources.packaged("space.toml") and "[hidden]" in packaged.read_text()
    (tmp_path / "hyperparameter").mkdir()
    users = tmp_path / "hyperparameter" / "space.toml"
    users.write_text("[hidden]\nchoices = [8]\n")
    assert resources.find("hyperparameter", "space.toml") == users
    # of another name, or in another folder, there is none
    assert resources.find("hyperparameter", "grid.toml") == resources.packaged("grid.toml")
    assert resources.find("prompt", "space.toml") == packaged
