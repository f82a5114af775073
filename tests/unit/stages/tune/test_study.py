"""A shared search: no trial is lost or done twice, and a study is resumed only by the same search."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState

from kflm2.errors import DataError, LLMError, SettingError
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
    names = ("hidden", "dropout", "learning_rate", "epochs", "graph_encoder", "layers", "voters")
    return read_space(folder / "space.toml", names)


def _open(folder: Path, space: Space, sampler: str = "random", **more: Any) -> Search:
    arguments = {"identity": {"dataset": "a"}, "minimize": True, "prune": False, "seed": 0, **more}
    return open_search(folder, None, "study", space, sampler, **arguments)


def _value(trial: Trial, chosen: dict[str, Any]) -> float:
    return chosen["hidden"] + chosen["dropout"]


def test_a_space_has_choices_ranges_and_steps(tmp_path: Path) -> None:
    space = _space(
        tmp_path, TABLE + "[learning_rate]\nfrom = 1e-4\nto = 1e-2\nscale = 'log'\n[epochs]\nfrom = 1\nto = 9\n"
    )
    parameters = space.parameters
    assert parameters["hidden"] == optuna.distributions.CategoricalDistribution([16, 64])
    assert parameters["dropout"] == optuna.distributions.FloatDistribution(0.0, 0.5, step=0.25)
    assert parameters["learning_rate"] == optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
    assert parameters["epochs"] == optuna.distributions.IntDistribution(1, 9)
    whole = _space(tmp_path, "[dropout]\nfrom = 0\nto = 1\n").parameters["dropout"]
    assert whole == optuna.distributions.FloatDistribution(0.0, 1.0)
    with pytest.raises(SettingError, match="learning_rate has no steps"):
        space.grid()
    grid = _space(tmp_path).grid()
    assert grid == [{"hidden": h, "dropout": d} for h in (16, 64) for d in (0.0, 0.25, 0.5)]
    assert _space(tmp_path).sha256 != space.sha256


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[hidden", "is not TOML"),
        ("", "nothing to choose from"),
        ("[width]\nchoices = [1]", "'width' is no setting to choose; there are: hidden"),
        ("[hidden]\nfrom = 1", "give choices, or from and to"),
        ("[hidden]\nfrom = 1\nto = 5\nby = 2", "unknown key 'by'"),
        ("[hidden]\nfrom = 9\nto = 5", "hidden: "),
        ("hidden = 3", "give choices, or from and to"),
        ("[voters]\nchoices = [['svm'], ['svm', 'forest']]", "voters: it is a list, which cannot be searched"),
        ("[voters]\nchoices = ['svm']", "voters: it is a list, which cannot be searched"),
        ("[graph_encoder]\nchoices = ['gcn', 'gin']", "graph_encoder: 'gin' is not one of gcn, gine"),
        ("[graph_encoder]\nchoices = 'gcn'", "graph_encoder: give choices as a list"),
        ("[graph_encoder]\nfrom = 'gcn'\nto = 'gine'", "graph_encoder: a range is of numbers"),
        ("[hidden]\nchoices = [16, 'big']", "hidden: 'big' is not a whole number"),
        ("[hidden]\nchoices = [16, true]", "hidden: True is not a whole number"),
        ("[hidden]\nfrom = 8\nto = 16\nstep = 0.5", "hidden: 0.5 is not a whole number"),
        ("[epochs]\nfrom = 1.0\nto = 3.0", "epochs: 1.0 is not a whole number"),
        ("[dropout]\nfrom = 0.1\nto = 0.5\nscale = 'logarithmic'", "scale 'logarithmic': there are linear and log"),
        ("[layers]\nchoices = [6]", "layers: 6 is not a word"),
    ],
)
def test_the_error_of_an_invalid_space_is_one_line(table: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        _space(tmp_path, table)
    assert "\n" not in str(caught.value)


def test_a_grid_tries_every_combination_once(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path), "grid")
    tried = [trial.params for trial in search.run(6, _value)]
    key = lambda settings: (settings["hidden"], settings["dropout"])  # noqa: E731
    assert sorted(tried, key=key) == sorted(search.space.grid(), key=key)
    assert search.study.best_trial.params == {"hidden": 16, "dropout": 0.0}


def test_a_grid_that_is_interrupted_while_it_is_laid_is_laid_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue = optuna.Study.enqueue_trial
    laid: list[dict[str, Any]] = []

    def killed(study: optuna.Study, combination: dict[str, Any], **options: Any) -> None:
        if len(laid) == 4:
            raise KeyboardInterrupt
        laid.append(combination)
        enqueue(study, combination, **options)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        _open(tmp_path, _space(tmp_path), "grid")
    monkeypatch.setattr(optuna.Study, "enqueue_trial", enqueue)
    search = _open(tmp_path, _space(tmp_path), "grid")
    assert len({tuple(trial.params.values()) for trial in search.run(6, _value)}) == 6


def test_a_search_resumes_and_stops_at_the_number_of_trials(tmp_path: Path) -> None:
    assert len(list(_open(tmp_path, _space(tmp_path)).run(4, _value))) == 4
    resumed = _open(tmp_path, _space(tmp_path))
    assert len(resumed.finished()) == 4
    assert len(list(resumed.run(7, _value))) == 3
    assert list(resumed.run(7, _value)) == []
    # the trials of the second process are not the trials of the first one again
    values = [trial.params["dropout"] + trial.params["hidden"] for trial in resumed.finished()]
    assert values[:3] != values[4:]


def test_the_trial_of_a_killed_process_is_repeated(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path))
    trial = search._take(3)
    assert isinstance(trial, Trial)
    # as if another process had taken the trial and died; its process number may now belong to another process
    trial.set_user_attr("process", [trial.user_attrs["process"][0], trial.user_attrs["process"][1], 1.0])
    trials = list(_open(tmp_path, _space(tmp_path)).run(3, _value))
    assert trials[0].params == trial.params
    assert len(trials) == 3
    assert search.study.get_trials()[trial.number].state == TrialState.FAIL


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_is_interrupted_tries_the_same_settings(tmp_path: Path, sampler: str) -> None:
    table = TABLE + "[learning_rate]\nfrom = 1e-4\nto = 1e-2\nscale = 'log'\n"

    def value(trial: Trial, chosen: dict[str, Any]) -> float:
        return float(chosen["dropout"] + abs(chosen["learning_rate"] - 1e-3))

    def tried(search: Search) -> list[dict[str, Any]]:
        return [trial.params for trial in search.finished()]

    whole = _open(tmp_path / "whole", _space(tmp_path, table), sampler)
    list(whole.run(16, value))
    for trials in (3, 4, 13, 16):
        search = _open(tmp_path / "stopped", _space(tmp_path, table), sampler)
        list(search.run(trials - 1, value))
        lost = search._take(trials)  # its process is killed
        assert isinstance(lost, Trial)
        lost.set_user_attr("process", [lost.user_attrs["process"][0], lost.user_attrs["process"][1], 1.0])
    list(_open(tmp_path / "stopped", _space(tmp_path, table), sampler).run(16, value))
    assert tried(search) == tried(whole)
    assert len({trial["learning_rate"] for trial in tried(whole)}) == 16


def test_the_trial_of_a_running_process_is_waited_for(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path))
    trial = search._take(2)
    other = _open(tmp_path, _space(tmp_path))
    trials = other.run(2, _value)
    next(trials)
    assert not isinstance(other._take(2), Trial | None)
    assert isinstance(trial, Trial)
    search.study.tell(trial, 1.0)
    assert list(trials) == []
    assert len(other.finished()) == 2


def test_an_interrupted_trial_is_repeated(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path))
    settings = []

    def interrupt(trial: Trial, chosen: dict[str, Any]) -> float:
        settings.append(chosen)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(search.run(2, interrupt))
    assert search.finished() == []
    assert next(_open(tmp_path, _space(tmp_path)).run(2, _value)).params == settings[0]


def test_trials_with_nan_or_incompatible_settings_fail_and_are_counted(tmp_path: Path) -> None:
    search = _open(tmp_path, _space(tmp_path), "grid")

    def objective(trial: Trial, chosen: dict[str, Any]) -> float:
        if chosen["hidden"] == 64:
            # of the LLM, whose files are not there for this choice
            raise (LLMError if chosen["dropout"] else SettingError)("hidden 64 cannot be divided")
        return float("nan") if chosen["dropout"] == 0.5 else 1.0

    states = [trial.state for trial in search.run(6, objective)]
    assert states.count(TrialState.FAIL) == 4
    assert len(search.finished()) == 6
    assert {trial.user_attrs.get("failed") for trial in search.finished()} == {
        None,
        "hidden 64 cannot be divided",
        "its predictions are no numbers",
    }


def test_a_study_of_another_search_is_refused(tmp_path: Path) -> None:
    _open(tmp_path, _space(tmp_path))
    with pytest.raises(SettingError, match="was begun with another dataset; give another --out"):
        _open(tmp_path, _space(tmp_path), identity={"dataset": "b"})
    settings = {"epochs": 3, "hidden": 16}
    _open(tmp_path / "b", _space(tmp_path), identity={"settings": settings})
    with pytest.raises(SettingError, match="was begun with another dropout, epochs; give"):
        _open(tmp_path / "b", _space(tmp_path), identity={"settings": {**settings, "epochs": 4, "dropout": 0.1}})
    with pytest.raises(SettingError, match="was begun with another sampler"):
        _open(tmp_path, _space(tmp_path), "grid")
    with pytest.raises(SettingError, match="was begun with another space"):
        _open(tmp_path, _space(tmp_path, "[hidden]\nchoices = [16, 65]"))


def test_a_database_keeps_a_study_that_another_process_goes_on_with(tmp_path: Path) -> None:
    space, url = _space(tmp_path), f"sqlite:///{tmp_path}/study.db"
    arguments: dict[str, Any] = {"identity": {"dataset": "a"}, "minimize": True, "prune": False, "seed": 0}

    def opened(folder: str, storage: str) -> Search:
        return open_search(tmp_path / folder, storage, "study", space, "grid", **arguments)

    first = list(opened("one", url).run(2, _value))
    second = list(opened("another", url).run(4, _value))
    assert [len(first), len(second)] == [2, 2]
    chosen = [tuple(trial.params.values()) for trial in (*first, *second)]
    assert len(set(chosen)) == 4
    assert not list(tmp_path.rglob("study.journal"))
    with pytest.raises(SettingError, match="was begun with another dataset; give another --storage"):
        open_search(tmp_path, url, "study", space, "grid", **{**arguments, "identity": {"dataset": "b"}})
    with pytest.raises(SettingError, match=r"^storage nonsense://here: "):
        opened("one", "nonsense://here")
    with pytest.raises(SettingError, match=r"^storage redis://nowhere: "):
        opened("one", "redis://nowhere")


def test_a_database_whose_tables_another_process_has_just_made_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, calls = optuna.create_study, []

    def late(**arguments: Any) -> optuna.Study:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("table studies already exists")
        return create(**arguments)

    monkeypatch.setattr(optuna, "create_study", late)
    url = f"sqlite:///{tmp_path}/study.db"
    arguments: dict[str, Any] = {"identity": {}, "minimize": True, "prune": False, "seed": 0}
    assert open_search(tmp_path, url, "study", _space(tmp_path), "random", **arguments) and len(calls) == 2


def test_the_error_of_a_damaged_journal_names_the_line(tmp_path: Path) -> None:
    list(_open(tmp_path, _space(tmp_path)).run(2, _value))
    path = tmp_path / "study.journal"
    lines = path.read_bytes().splitlines()
    lines[3] = lines[3][:20]
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(DataError, match=r"study\.journal: line 4 is damaged"):
        _open(tmp_path, _space(tmp_path))
    assert all(json.loads(line) for line in lines[:3])
