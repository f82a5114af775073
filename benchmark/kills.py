"""Kill predict, train, finetune and tune at random times, give the command again, and compare the bytes of the results.

    python benchmark/kills.py --kills 50

Each command is run once without a kill; that gives its duration and the files to compare with. Then it is killed
(SIGKILL, with all its processes) after a random part of that duration and repeated to its end. A result that differs,
and a file that the whole run does not leave, are printed, and the exit status is 1.

Compared are files that hold results, see STAGES. Others hold times, or the folder in which they were made.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kflm2.files import cache_folder, project_folder, sha256_file

KFLM2 = str(Path(sys.executable).parent / "kflm2")
GRAPH = "SAMPL --model gcn_indepent --limit 60 --device cpu".split()
LORA = "--keep-tested --no-evaluate --layers 2 --rank 2 --alpha 4 --batch-size 4 --save-steps 2 --device cpu".split()


@dataclass(frozen=True)
class Stage:
    """A command, run in an empty folder."""

    name: str
    command: list[str]
    """Arguments of kflm2; files of the inputs are named {inputs}."""
    compared: tuple[str, ...]
    """Patterns of the files whose bytes must be those of the whole run."""
    resume: tuple[str, ...] = ()
    """Arguments with which the command goes on, once it has written the first of its checkpoints."""


STAGES = (
    Stage("predict to CSV", ["predict", "{inputs}/model", "{inputs}/many.smi", "--out", "o.csv"], ("o.csv",)),
    Stage("predict to Parquet", ["predict", "{inputs}/model", "{inputs}/many.smi", "--out", "o.parquet"], ("o.*",)),
    Stage(
        "train",
        ["train", *GRAPH, "--epochs", "10", "--runs", "3", "--save", "model"],
        ("model/*.safetensors", "model/training.csv", "results/**/predictions.csv", "results/**/split.json"),
    ),
    Stage(
        "finetune",
        ["finetune", "--corpus", "{inputs}/own.smi", *LORA],
        ("models/**/adapter_model.safetensors", "models/**/knowledge_head.safetensors", "models/**/losses.csv"),
        ("--resume",),
    ),
    Stage("tune", ["tune", *GRAPH, "--epochs", "5", "--trials", "4", "--inner-splits", "2"], ("results/**/best.json",)),
)


class Trials:
    """The folders of the trials, their inputs, and a cache that is empty at the start of each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.inputs = folder, folder / "inputs"
        self.inputs.mkdir()
        smiles = (project_folder() / "dataset" / "zinc_sample.smi").read_text().splitlines()
        (self.inputs / "many.smi").write_text("\n".join(smiles * 4) + "\n")
        (self.inputs / "own.smi").write_text("\n".join(smiles[:60]) + "\n")
        stage = Stage("", ["train", *GRAPH, "--epochs", "2", "--ensemble", "2", "--save", "model"], ())
        self.run(stage, self.inputs)

    def empty(self, name: str) -> Path:
        """A new folder; the cache is emptied, but for the converted LLMs."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        (self.folder / "cache").mkdir()
        (cache_folder() / "llms").mkdir(parents=True, exist_ok=True)
        os.symlink(cache_folder() / "llms", self.folder / "cache" / "llms")
        (self.folder / name).mkdir()
        return self.folder / name

    def run(self, stage: Stage, folder: Path, seconds: float | None = None, more: tuple[str, ...] = ()) -> bool:
        """Run a stage in a folder, and kill it after some seconds; None lets it end.

        Returns:
            Whether it ended by itself.

        Raises:
            SystemExit: it ended with an error.
        """
        command = [KFLM2, *(word.format(inputs=self.inputs) for word in stage.command), *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "KFLM2_CACHE": str(self.folder / "cache")}
        with open(folder / "log", "ab") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return False
        if status:
            sys.exit(f"{stage.name} ended with status {status}:\n{(folder / 'log').read_text()[-2000:]}")
        return True


def results(stage: Stage, folder: Path) -> tuple[dict[str, str], set[str]]:
    """SHA-256 of the compared files, and the names of all files."""
    compared = {path for pattern in stage.compared for path in folder.glob(pattern)}
    every = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(compared)}, every


def differences(expected: tuple[dict[str, str], set[str]], found: tuple[dict[str, str], set[str]]) -> list[str]:
    """What a killed and repeated run has otherwise than the whole one."""
    bytes_differ = [name for name, digest in expected[0].items() if found[0].get(name) != digest]
    left, missing = sorted(found[1] - expected[1]), sorted(expected[1] - found[1])
    return [
        *(f"{name} differs" for name in bytes_differ),
        *(f"{name} is left over" for name in left),
        *(f"{name} is missing" for name in missing),
    ]


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="over all stages, in turn (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    options = parser.parse_args()
    rng, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory(prefix="kflm2-kills-") as folder:
        trials = Trials(Path(folder))
        whole = {}
        for stage in STAGES[: options.kills]:
            start, place = time.monotonic(), trials.empty(f"whole {stage.name}")
            trials.run(stage, place)
            whole[stage.name] = (time.monotonic() - start, results(stage, place))
            if not whole[stage.name][1][0]:
                sys.exit(f"{stage.name} left no file to compare")
        for number in range(options.kills):
            stage = STAGES[number % len(STAGES)]
            duration, expected = whole[stage.name]
            place, seconds = trials.empty(f"{number}"), rng.uniform(0, duration)
            ended = trials.run(stage, place, seconds)
            begun = any(place.rglob("checkpoint-*"))
            trials.run(stage, place, more=stage.resume if begun else ())
            problems = differences(expected, results(stage, place))
            wrong += bool(problems)
            how = "ended before" if ended else "killed after"
            print(f"{stage.name}: {how} {seconds:.1f} of {duration:.1f} s: {'; '.join(problems) or 'same'}", flush=True)
            shutil.rmtree(place)
    print(f"{options.kills} kills, {wrong} with another result")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
