"""A shared search: nothing is lost or done twice, and what is there is only gone on with where it is the same."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from kflm2.errors import DataError, SettingError
from kflm2.stages.tune.study import Search, Space, open_search, read_space

TABLE = """
[hidden]
choices = [16, 64]
[dropout]
from = 0.0
to = 0.5
step = 0.25
"""


def _space(folder: Path, table: str = TABLE) -> Space:
    (folder / "space.toml").write_text(table)
    return read_space(folder / "space.toml", ("hidden", "dropout", "learning_rate", "epochs"))


def _open(folder: Path, space: Space, sampler: str = "random", **more: Any) -> Search:
    given = {"identity": {"dataset": "a"}, "minimize": True, "prune": False, "seed": 0, **more}
    return open_search(folder, None, "study", space, sampler, **given)


def _value(trial: Trial, chosen: dict[str, Any]) -> float:
    return chosen["hidden"] + chosen["dropout"]


def test_a_space_has_choices_ranges_and_steps(tmp_path: Path) -> None:
    space = _space(
        tmp_path, TABLE + "[learning_rate]\nfrom = 1e-4\nto = 1e-2\nscale = 'log'\n[epochs]\nfrom = 1\nto = 9\n"
    )
    found = space.parameters
    assert found["hidden"] == optuna.distributions.CategoricalDistribution([16, 64])
    assert found["dropout"] == optuna.distributions.FloatDistribution(0.0, 0.5, step=0.25)
    assert found["learning_rate"] == optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
    assert found["epochs"] == optuna.distributions.IntDistribution(1, 9)
    with pytest.raises(SettingError, match="learning_rate has no steps"):
        space.grid()
    grid = _space(tmp_path).grid()
    assert grid == [{"hidden": h, "dropout": d} for h in (16, 64) for d in (0.0, 0.25, 0.5)]
    assert _space(tmp_path).sha256 != space.sha256


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("[hidden", "is not TOML"),
        ("", "nothing to choose from"),
        ("[width]\nchoices = [1]", "'width' is no setting to choose; there are: hidden"),
        ("[hidden]\nfrom = 1", "give choices, or from and to"),
        ("[hidden]\nfrom = 1\nto = 5\nby = 2", "unknown key 'by'"),
        ("[hidden]\nfrom = 9\nto = 5", "hidden: "),
        ("hidden = 3", "give choices, or from and to"),
    ],
)
def test_a_space_that_cannot_be_used_is_one_line(table: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=told) as caught:
        _space(tmp_path, table)
    assert "\n" not in str(caught.value)


def test_a_grid_tries_every_combination_once(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path), "grid")
    tried = [own.params for own in search.run(6, _value)]
    key = lambda own: (own["hidden"], own["dropout"])  # noqa: E731
    assert sorted(tried, key=key) == sorted(search.space.grid(), key=key)
    assert search.study.best_trial.params == {"hidden": 16, "dropout": 0.0}


def test_it_goes_on_where_it_ended_and_stops_at_the_number(tmp_path: Path) -> None:
    assert len(list(_open(tmp_path, _space(tmp_path)).run(4, _value))) == 4
    again = _open(tmp_path, _space(tmp_path))
    assert len(again.finished()) == 4
    assert len(list(again.run(7, _value))) == 3
    assert list(again.run(7, _value)) == []
    # those of the second process are not those of the first again
    values = [own.params["dropout"] + own.params["hidden"] for own in again.finished()]
    assert values[:3] != values[4:]


def test_what_a_killed_process_was_at_is_tried_again(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path))
    trial = search._take(3)
    assert isinstance(trial, Trial)
    # as if another process had taken it and died; the number of a process may by now be another's
    trial.set_user_attr("process", [trial.user_attrs["process"][0], trial.user_attrs["process"][1], 1.0])
    found = list(_open(tmp_path, _space(tmp_path)).run(3, _value))
    assert found[0].params == trial.params
    assert len(found) == 3
    assert search.study.get_trials()[trial.number].state == TrialState.FAIL


def test_what_a_living_process_is_at_is_waited_for(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path))
    trial = search._take(2)
    other = _open(tmp_path, _space(tmp_path))
    found = other.run(2, _value)
    next(found)
    assert not isinstance(other._take(2), Trial | None)
    assert isinstance(trial, Trial)
    search.study.tell(trial, 1.0)
    assert list(found) == []
    assert len(other.finished()) == 2


def test_ctrl_c_gives_back_what_was_tried(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path))
    seen = []

    def stopped(trial: Trial, chosen: dict[str, Any]) -> float:
        seen.append(chosen)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(search.run(2, stopped))
    assert search.finished() == []
    assert next(_open(tmp_path, _space(tmp_path)).run(2, _value)).params == seen[0]


def test_trials_that_diverge_or_do_not_go_together_are_failed_and_counted(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path), "grid")

    def objective(trial: Trial, chosen: dict[str, Any]) -> float:
        if chosen["hidden"] == 64:
            raise SettingError("hidden 64 cannot be divided")
        return float("nan") if chosen["dropout"] == 0.5 else 1.0

    states = [own.state for own in search.run(6, objective)]
    assert states.count(TrialState.FAIL) == 4
    assert len(search.finished()) == 6
    assert {own.user_attrs.get("failed") for own in search.finished()} == {
        None,
        "hidden 64 cannot be divided",
        "its predictions are no numbers",
    }


def test_another_study_is_not_gone_on_with(tmp_path: Path) -> None:
    _open(tmp_path, _space(tmp_path))
    with pytest.raises(SettingError, match="was begun with another dataset; give another --out"):
        _open(tmp_path, _space(tmp_path), identity={"dataset": "b"})
    with pytest.raises(SettingError, match="was begun with another sampler"):
        _open(tmp_path, _space(tmp_path), "grid")
    with pytest.raises(SettingError, match="was begun with another space"):
        _open(tmp_path, _space(tmp_path, "[hidden]\nchoices = [16, 65]"))


def test_a_damaged_journal_names_the_line(tmp_path: Path) -> None:
    list(_open(tmp_path, _space(tmp_path)).run(2, _value))
    path = tmp_path / "study.journal"
    lines = path.read_bytes().splitlines()
    lines[3] = lines[3][:20]
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(DataError, match=r"study\.journal: line 4 is damaged"):
        _open(tmp_path, _space(tmp_path))
    assert all(json.loads(line) for line in lines[:3])
