"""Predictions by a Ray cluster: a machine is lost on the way, and no row is."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest

from kflm2.cli import stages
from kflm2.config.embed import EmbedConfig
from kflm2.config.predict import PredictConfig
from kflm2.errors import DataError, KFLM2Error, SettingError
from kflm2.files import write_json
from kflm2.predictor import ray_engine
from kflm2.predictor.output import command_digest
from kflm2.stages import embed
from kflm2.stages.predict import stage as predict

ROOT = Path(__file__).parents[2]
CORE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph network: quick to train and to load."""
    folder = tmp_path_factory.mktemp("ray")
    arguments = f"--dataset SAMPL --model gcn_indepent --limit 60 --epochs 1 --ensemble 1 --out {folder}"
    stages.train.from_command_line([*arguments.split(), "--save", str(folder / "model")])
    return folder / "model"


@pytest.fixture
def molecules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """1,500 SMILES, the working folder's, one of which cannot be read."""
    monkeypatch.chdir(tmp_path)
    lines = (ROOT / "dataset" / "zinc_sample.smi").read_text().splitlines()[:1500]
    lines[700] = "C1CC"
    Path("m.smi").write_text("\n".join(lines) + "\n")
    return Path("m.smi")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The machine of the command, without cores for the work, and two with a core each: processes of this machine."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside other tests, processes of lower priority would starve
    from ray.cluster_utils import Cluster

    cluster = Cluster(True, head_node_args={**CORE, "num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(**CORE)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    cluster.shutdown()


def _kill_at_work(cluster: Any, killed: list[Any]) -> None:
    """Kill the first machine whose actor predicts."""
    raylets = {node: psutil.Process(node.all_processes["raylet"][0].process.pid) for node in cluster.worker_nodes}
    deadline = time.monotonic() + 250
    while not killed and time.monotonic() < deadline:
        for node, raylet in raylets.items():
            # Ray gives its processes the name of what they do
            if any("_Actor)).submit" in "".join(child.cmdline()) for child in raylet.children()):
                cluster.remove_node(node, allow_graceful=False)
                killed.append(node)
                break
        time.sleep(0.01)


def test_a_lost_machine_loses_and_doubles_no_row(
    model: Path, molecules: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = PredictConfig(model=model, molecules=(str(molecules),), out=Path("local.parquet"), jobs=1)
    assert predict.run(local) == 1
    expected = pd.read_parquet("local.parquet")
    # one partition is there from an earlier run: it stays as it is
    monkeypatch.setattr(ray_engine, "PARTITION", 512)
    digest = command_digest(local, predict.load(local).read.reader, ("predict", 0.9, 1))
    expected.loc[512:1023, "expt"] = 1e6
    Path("folder").mkdir()
    write_json(Path("folder/_command.json"), {"of": digest, "rows": 512})
    expected[512:1024].to_parquet("folder/rows-000000000513.parquet", index=False)
    killed: list[Any] = []
    killer = threading.Thread(target=_kill_at_work, args=(cluster, killed))
    killer.start()
    with pytest.raises(SystemExit) as stop:
        stages.predict.from_command_line([str(model), str(molecules), "--engine", "ray", "--out", "folder"])
    killer.join()
    assert stop.value.code == 3 and len(killed) == 1
    names = [f"rows-{first:012d}.parquet" for first in (1, 513, 1025)]
    assert sorted(path.name for path in Path("folder").iterdir()) == ["_command.json", *names]
    pd.testing.assert_frame_equal(pd.read_parquet("folder"), expected, check_dtype=False)


def _without_ray(config: Any, build: Any) -> list[dict[str, Any]]:
    """What the task and the actors do, one after another in this process, by way of the GPUs' two steps."""
    reader = build(config).read.reader
    read, actor = ray_engine._Read(build(config, reader).read), ray_engine._Actor(build, config, reader)
    source = ray_engine._Chunks(reader, 256, 512, frozenset({513}))
    done = [actor(read(batch)) for batch in source(None)]
    return [{name: values[0] for name, values in batch.items()} for batch in done]


def test_chunks_that_cores_read_and_another_process_finishes_are_the_vectors_of_the_local_engine(
    model: Path, molecules: Path
) -> None:
    config = EmbedConfig(model=model, molecules=(str(molecules),), jobs=1)
    embed.run(config)
    expected = pd.read_parquet("vectors.parquet")
    done = _without_ray(config, embed.load)
    starts = [0, 256, 1024, 1280]
    assert [batch["start"] for batch in done] == starts and [batch["first"] for batch in done] == [1, 1, 1025, 1025]
    assert [batch["chunks"] for batch in done] == [2, 2, 2, 2]
    assert [batch["count"] for batch in done] == [256, 256, 256, 220]
    embedder = embed.load(config)
    header = ray_engine._encoder(embedder)(embedder(ray_engine.Chunk(0, []))[1], True)
    table = pa.ipc.open_stream(header + b"".join(batch["rows"] for batch in done)).read_all()
    there = expected.drop(range(512, 1024))
    assert table["row"].to_pylist() == there["row"].tolist() and table["status"].to_pylist() == there["status"].tolist()
    for vector, other in zip(table["vector"].to_pylist(), there["vector"], strict=True):
        assert (vector is None) == (other is None)
        if vector is not None:
            np.testing.assert_allclose(vector, other, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs --out FOLDER"),
        ({"out": Path("o.csv")}, "needs --out FOLDER"),
        ({"out": Path("o"), "shard": "1/2"}, "leave --shard out"),
        ({"out": Path("o"), "molecules": ("-",)}, "reads no standard input"),
        ({"out": Path("o"), "device": "cuda:3"}, "device 'cuda:3': --engine ray takes auto, cpu or cuda"),
    ],
)
def test_settings_that_do_not_go_with_ray_are_refused(options: dict[str, Any], message: str) -> None:
    for config in (PredictConfig, EmbedConfig):
        with pytest.raises(SettingError, match=message):
            config(**{"molecules": ("C",), "engine": "ray", **options}).check()


def test_a_gpu_that_no_machine_has_is_refused(model: Path, molecules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    config = PredictConfig(model=model, molecules=(str(molecules),), engine="ray", out=Path("o"), device="cuda")
    actor = predict.load(replace(config, device="cpu"))
    source = ray_engine._Chunks(actor.read.reader, actor.chunk_size, 512, frozenset())
    with pytest.raises(SettingError, match="no machine of the Ray cluster has a GPU"):
        next(ray_engine._computed(config, predict.load, source, actor.read))


def test_a_folder_of_another_command_is_refused(model: Path, molecules: Path) -> None:
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    with pytest.raises(DataError, match="other is not empty"):
        ray_engine._begin(Path("other"), "a")
    ray_engine._begin(Path("new"), "a")
    ray_engine._begin(Path("new"), "a")
    with pytest.raises(DataError, match="new has rows of another command"):
        ray_engine._begin(Path("new"), "b")
    assert json.loads(Path("new/_command.json").read_text())["of"] == "a"


def test_an_address_that_is_none_is_an_error_of_one_line(
    model: Path, molecules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head")
    config = PredictConfig(model=model, molecules=(str(molecules),), out=Path("o"), engine="ray")
    with pytest.raises(SettingError, match=r"^Ray: Invalid address format: head"):
        predict.run(config)


def test_without_ray_the_extra_is_named(model: Path, molecules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    config = PredictConfig(model=model, molecules=(str(molecules),), out=Path("o"), engine="ray")
    with pytest.raises(KFLM2Error, match=r"pip install \"kflm2\[ray\]\""):
        predict.run(config)
    assert not Path("o").exists()
