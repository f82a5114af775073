"""Stage 1 as people run it, and stage 2 with what it made."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kflm2.cli import stages

ROOT = Path(__file__).parents[2]
SMALL: tuple[object, ...] = ("--batch-size", 4, "--rank", 4, "--alpha", 8, "--save-steps", 2)


@pytest.fixture(autouse=True, scope="module")
def only_the_checkouts_datasets() -> Iterator[None]:
    """Structures of all eleven datasets take a minute to compute, in every test's empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KFLM2_DATASETS", raising=False)
        yield


def _corpus(folder: Path) -> Path:
    smiles = [f"{'C' * a}C(F){'C' * b}Br" for a in range(5) for b in range(8)]
    # a molecule of SAMPL, written another way, and two that nobody can read
    (folder / "own.smi").write_text("\n".join([*smiles, "C1=CC=CC=C1O", "C(C", "c1cc"]) + "\n")
    return folder / "own.smi"


def _command(*words: object, script: str = "SmolLM2_135M") -> list[str]:
    return [sys.executable, str(ROOT / "fine_tune" / f"{script}_Finetuning_LoRA.py"), *map(str, words)]


def _run(*words: object, cwd: Path, script: str = "SmolLM2_135M") -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = _command(*words, script=script)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250)


def test_an_adapter_is_made_that_peft_and_stage_2_load(tmp_path: Path, tiny_decoder: Path) -> None:
    words = ("--llm", tiny_decoder, "--corpus", _corpus(tmp_path), "--layers", 2, "--knowledge", "descriptors")
    done = _run(*words, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "43 read, 2 unreadable, 1 left out because SAMPL" in done.stdout
    assert "SMILES 42: 'C(C'" in done.stdout
    assert "perplexity" in done.stdout
    folder = tmp_path / "models" / "tiny_decoder" / "own"
    made = json.loads((folder / "kflm2.json").read_text())
    assert made["layers"] == 2
    assert made["corpus"]["taught"] + made["judged"]["held_out"] == 40
    for name in (
        "README.md",
        "losses.csv",
        "losses.png",
        "samples.csv",
        "knowledge_head.safetensors",
        "tokenizer.json",
    ):
        assert (folder / name).stat().st_size > 0
    assert not list(folder.rglob("*.bin")) + list(folder.rglob("*.pt")), "a pickle was left"
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_decoder), folder)
    assert any(weight.abs().sum() > 0 for name, weight in plain.named_parameters() if "lora_B" in name)
    AutoTokenizer.from_pretrained(folder)

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / "kflm2"), "train", "SAMPL", "--llm", str(tiny_decoder)]
    command += ["--adapter", str(folder), "--model", "combined", "--limit", "40", "--epochs", "1", "--runs", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results" / "SAMPL" / "combined" / "random-0" / "result.json").read_text())
    assert result["llm"]["layers"] == [2]
    assert result["llm"]["adapter"]


LONG: tuple[object, ...] = ("--corpus", "own.smi", "--epochs", 12, "--knowledge", "descriptors", *SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> bytes:
    """The adapter of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    _corpus(folder)
    done = _run("--llm", tiny_decoder, *LONG, cwd=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "models" / "tiny_decoder" / "own" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_ended_and_resumed_the_adapter_is_the_same(
    tmp_path: Path, tiny_decoder: Path, whole: bytes, end: signal.Signals
) -> None:
    _corpus(tmp_path)
    words = ("--llm", tiny_decoder, *LONG)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = _command(*words)
    pipe = subprocess.PIPE
    # a group of its own: a terminal's Ctrl-C reaches all processes of a command
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, start_new_session=True)
    folder = tmp_path / "models" / "tiny_decoder" / "own"
    checkpoints = folder / "checkpoints"
    late = time.monotonic() + 100
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < late:
        time.sleep(0.02)
    os.killpg(process.pid, end)
    out, err = process.communicate()
    assert not (folder / "kflm2.json").exists()
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert b"--resume goes on from" in out
        assert b"Traceback" not in err
        done = _run(*words, "--resume", "--rank", "8", cwd=tmp_path)
        assert done.returncode == 2
        assert "was begun with another config: rank" in done.stderr
    done = _run(*words, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "adapter_model.safetensors").read_bytes() == whole


def test_two_processes_give_the_adapter_of_one(tmp_path: Path, tiny_decoder: Path) -> None:
    """At the same molecules in a step; dropout off, since each process draws its own."""
    words = ["--llm", tiny_decoder, "--corpus", _corpus(tmp_path), "--epochs", "3", "--knowledge", "descriptors"]
    # steps in which the adapter of the vocabulary head has no part
    words += ["--dropout", "0", "--rank", "4", "--alpha", "8", "--targets", "paper", "--next-token-every", "2"]
    assert _run(*words, "--batch-size", 8, "--out", "one", cwd=tmp_path).returncode == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    script = _command(*words, "--batch-size", 4, "--out", "two")[1:]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *script]
    done = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("for training") == 1, "more than one process speaks"
    one, two = (
        load_file(tmp_path / name / "tiny_decoder" / "own" / "adapter_model.safetensors") for name in ("one", "two")
    )
    assert set(one) == set(two)
    assert max(weight.abs().max() for name, weight in one.items() if "lora_B" in name) > 1e-3
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--corpus", "none.smi"), "unknown corpus 'none.smi'"),
        (("--corpus", "empty.smi"), "none of 0 SMILES can be used for training"),
        (("--corpus", "bad.smi"), "none of 2 SMILES can be used for training"),
        (("--resume",), "there is no checkpoint in"),
        (("--batch-size", "41"), "a step takes 41 molecules and"),
        (("--rank", "0"), "rank is 0"),
        (("--layers", "4"), "layers is 4, and tiny_decoder has 3"),
        (("--randomize", "1.5"), "randomize is 1.5"),
        (("--next-token-every", "2"), "knowledge is none"),
        (("--next-token-weight", "0"), "nothing is to be learnt"),
        (("--llm", "DS_8B", "--batch-size", "4096"), "GB to be fine-tuned with 4096 molecules"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    tiny_decoder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _corpus(tmp_path)
    (tmp_path / "empty.smi").write_text("\n")
    (tmp_path / "bad.smi").write_text("C(\nXYZ\n")
    with pytest.raises(SystemExit) as stop:
        stages.finetune.from_command_line(["--corpus", "own.smi", *words], llm=str(tiny_decoder))
    assert stop.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert error.startswith("error: ")
    assert told in error
