"""Stage 1 by its script, and stage 2 with the adapter that it wrote."""

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
from commands import ROOT, kflm2, one_thread, script
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kflm2.cli import stages

SCRIPT = ROOT / "fine_tune" / "SmolLM2_135M_Finetuning_LoRA.py"
SMALL: tuple[object, ...] = ("--batch-size", 4, "--rank", 4, "--alpha", 8, "--save-steps", 2)


@pytest.fixture(autouse=True, scope="module")
def checkout_datasets_only() -> Iterator[None]:
    """With all eleven datasets every test would spend a minute on their structures, as its cache is empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KFLM2_DATASETS", raising=False)
        yield


def _corpus(folder: Path) -> Path:
    smiles = [f"{'C' * a}C(F){'C' * b}Br" for a in range(5) for b in range(8)]
    # a molecule of SAMPL as another SMILES, and two unreadable SMILES
    (folder / "own.smi").write_text("\n".join([*smiles, "C1=CC=CC=C1O", "C(C", "c1cc"]) + "\n")
    return folder / "own.smi"


def _run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return script(SCRIPT, *arguments, cwd=cwd)


def test_peft_and_stage_2_load_the_adapter(tmp_path: Path, tiny_decoder: Path) -> None:
    corpus = ("--corpus", _corpus(tmp_path), "--layers", 2, "--knowledge", "descriptors")
    completed = _run("--llm", tiny_decoder, *corpus, *SMALL, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert "43 read, 2 unreadable, 1 left out because SAMPL" in completed.stdout
    assert "SMILES 42: 'C(C'" in completed.stdout
    assert "perplexity" in completed.stdout
    folder = tmp_path / "models" / "tiny_decoder" / "own"
    card = json.loads((folder / "kflm2.json").read_text())
    assert card["layers"] == 2
    assert card["corpus"]["taught"] + card["judged"]["held_out"] == 40
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
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_decoder), folder)
    assert any(weight.abs().sum() > 0 for name, weight in model.named_parameters() if "lora_B" in name)
    AutoTokenizer.from_pretrained(folder)

    arguments = ("--llm", tiny_decoder, "--adapter", folder, "--model", "combined")
    completed = kflm2("train", "SAMPL", *arguments, "--limit", 40, "--epochs", 1, "--runs", 1, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    result = json.loads((tmp_path / "results" / "SAMPL" / "combined" / "random-0" / "result.json").read_text())
    assert result["llm"]["layers"] == [2]
    assert result["llm"]["adapter"]

    # an adapter without knowledge has no head of the one that it replaces, which would be read beside it
    completed = _run("--llm", tiny_decoder, *corpus[:4], *SMALL, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert not json.loads((folder / "kflm2.json").read_text())["config"]["knowledge"]
    assert not (folder / "knowledge_head.safetensors").exists()


LONG: tuple[object, ...] = ("--corpus", "own.smi", "--epochs", 8, "--knowledge", "descriptors", *SMALL)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> bytes:
    """The adapter of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    _corpus(folder)
    completed = _run("--llm", tiny_decoder, *LONG, cwd=folder)
    assert completed.returncode == 0, completed.stderr
    return (folder / "models" / "tiny_decoder" / "own" / "adapter_model.safetensors").read_bytes()


def test_a_run_that_was_stopped_twice_and_resumed_gives_the_same_adapter(
    tmp_path: Path, tiny_decoder: Path, uninterrupted: bytes
) -> None:
    _corpus(tmp_path)
    arguments = ("--llm", tiny_decoder, *LONG)
    folder = tmp_path / "models" / "tiny_decoder" / "own"

    def stopped(stop_signal: signal.Signals, *more: str) -> tuple[int, bytes, bytes]:
        """Status and output of a run that gets a signal after its first checkpoint."""
        command, pipe = [sys.executable, str(SCRIPT), *map(str, arguments), *more], subprocess.PIPE
        before = set(folder.glob("checkpoints/checkpoint-*"))
        # in a separate process group: a terminal's Ctrl-C reaches all processes of a command
        process = subprocess.Popen(
            command, cwd=tmp_path, env=one_thread(), stdout=pipe, stderr=pipe, start_new_session=True
        )
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline:
            made = {path.parent for path in folder.glob("checkpoints/checkpoint-*/trainer_state.json")}
            if made - before:
                break
            time.sleep(0.02)
        os.killpg(process.pid, stop_signal)
        out, err = process.communicate()
        assert not (folder / "kflm2.json").exists()
        return process.returncode, out, err

    status, out, err = stopped(signal.SIGINT)
    assert status == 130
    assert b"--resume goes on from" in out
    assert b"Traceback" not in err
    completed = _run(*arguments, "--resume", "--rank", "8", cwd=tmp_path)
    assert completed.returncode == 2
    assert "was begun with another config: rank" in completed.stderr
    assert stopped(signal.SIGKILL, "--resume")[0] == -signal.SIGKILL
    completed = _run(*arguments, "--resume", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert (folder / "adapter_model.safetensors").read_bytes() == uninterrupted


def test_two_processes_give_the_same_adapter_as_one_process(tmp_path: Path, tiny_decoder: Path) -> None:
    """With the same molecules in a step; without dropout, since each process draws different random numbers."""
    arguments = ["--llm", tiny_decoder, "--corpus", _corpus(tmp_path), "--epochs", "3", "--knowledge", "descriptors"]
    # some steps do not use the adapter of the vocabulary head
    arguments += ["--dropout", "0", "--rank", "4", "--alpha", "8", "--targets", "paper", "--next-token-every", "2"]
    # in bfloat16 the sums of four molecules and of eight differ in the fifth digit
    arguments += ["--precision", "float32"]
    assert _run(*arguments, "--batch-size", 8, "--out", "one", cwd=tmp_path).returncode == 0
    environment = one_thread(GLOO_SOCKET_IFNAME="lo")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    launch += [*map(str, arguments), "--batch-size", "4", "--out", "two"]
    completed = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("corpus: own") == 1, "more than one process prints"
    configs = [
        json.loads((tmp_path / name / "tiny_decoder/own/adapter_config.json").read_text()) for name in ("one", "two")
    ]
    assert configs[0]["target_modules"] == configs[1]["target_modules"] == sorted(configs[0]["target_modules"])
    single, distributed = (
        load_file(tmp_path / name / "tiny_decoder" / "own" / "adapter_model.safetensors") for name in ("one", "two")
    )
    assert set(single) == set(distributed)
    assert max(weight.abs().max() for name, weight in single.items() if "lora_B" in name) > 1e-3
    for name, weight in single.items():
        torch.testing.assert_close(distributed[name], weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_invalid_input_ends_with_an_error_of_one_line_and_status_2(
    arguments: tuple[str, ...],
    message: str,
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
        stages.finetune.from_command_line(["--corpus", "own.smi", *arguments], llm=str(tiny_decoder))
    assert stop.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert error.startswith("error: ")
    assert message in error
