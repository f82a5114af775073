"""Make docs/report.png, explain-*.png, serve.png and assay-*.png: what `kflm2 report`, `explain` and `serve` show.

    python docs/make_pictures.py [FOLDER]

Trains and saves crossAtt on SAMPL, trains a graph network on two splits, audits the dataset, and runs the walk-through
of guide/assay.md, all in FOLDER (default: a temporary one), in about 20 minutes on 2 cores; existing results are not
computed again. Needs Chromium.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
KFLM2 = Path(sys.executable).with_name("kflm2")
MOLECULES = {"aspirin": "CC(=O)Oc1ccccc1C(=O)O", "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C"}
WIDTH, HEIGHT = 1280, 1950
SERVED = "\n".join([*(f"{smiles} {name}" for name, smiles in MOLECULES.items()), "C1CC broken", "CCO ethanol"])
"""What is pasted into the page."""
NEW = """\
smiles,temperature,lab
CCO,25,Kyoto
CCO,45,Kyoto
CCO,45,Basel
c1ccccc1O,25,Basel
c1ccccc1O,,Basel
CCO,25,Oslo
CCO,90,Kyoto
"""
"""The table of guide/assay.md that is dropped on the page."""


def main() -> None:
    """Run the commands, and save the pictures."""
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]).resolve())  # a browser needs absolute paths
        return
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))


def make(folder: Path) -> None:
    """Run all commands in a folder."""

    # paths are relative to the folder, so that the page shows no path of this machine
    def kflm2(*arguments: object) -> None:
        subprocess.run([KFLM2, *map(str, arguments)], check=True, cwd=folder)

    folder.mkdir(exist_ok=True)
    if not (folder / "model").is_dir():
        kflm2("train", "SAMPL", "--save", "model", "--runs", 3)
    for split in ("random", "scaffold"):
        if not (folder / "results" / "SAMPL" / "gcn_indepent" / f"summary-{split}.json").is_file():
            kflm2("train", "SAMPL", "--model", "gcn_indepent", "--runs", 3, "--split", split)
    kflm2("datasets", "audit", "SAMPL")
    kflm2("explain", "model", *MOLECULES.values(), "--out", "explained")
    for number, name in enumerate(MOLECULES, start=1):
        shutil.copyfile(folder / "explained" / f"{number:03d}.png", DOCS / f"explain-{name}.png")
    kflm2("report", "results/SAMPL", "--out", "report.html")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto((folder / "report.html").as_uri())
        # scroll to the plots below the tables
        page.get_by_role("heading", name="One method closely").evaluate("heading => heading.scrollIntoView()")
        page.screenshot(path=DOCS / "report.png")
        browser.close()
    make_assay(folder)
    pictures_of_server(folder / "model", _paste, {"serve.png": 1250})


def make_assay(folder: Path) -> None:
    """Run the walk-through of guide/assay.md, and make docs/assay-*.png."""
    if not (folder / "dataset").exists():
        os.symlink(DOCS.parent / "dataset", folder / "dataset")
    guide = (DOCS / "guide" / "assay.md").read_text(encoding="utf-8")
    walk = guide.partition("## Walk-through")[2].partition("\n## ")[0]
    for line in re.findall(r"^    kflm2 (.+)$", walk, flags=re.MULTILINE):
        name = re.search(r"--(?:save|out) (\S+)", line)
        assert name is not None
        if not (folder / name.group(1)).exists():
            subprocess.run([KFLM2, *line.split()], check=True, cwd=folder)
    (folder / "new.csv").write_text(NEW, encoding="utf-8")
    pictures_of_server(
        folder / "hydration",
        lambda page: page.get_by_label("or drop a").set_input_files(folder / "new.csv"),
        {"assay-served.png": 1120, "assay-explained.png": 1000},
    )


def _paste(page: Page) -> None:
    page.get_by_label("SMILES, one a line").fill(SERVED)


def pictures_of_server(model: Path, ask: Callable[[Page], None], pictures: dict[str, int]) -> None:
    """Pictures of the page that serves a saved model.

    Args:
        model: folder.
        ask: gives the page its molecules.
        pictures: name and height of the picture of the predictions, and of that of the first explanation.
    """
    server = subprocess.Popen([KFLM2, "serve", model, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = next(found.group() for line in server.stdout if (found := re.search(r"http://\S+", line)))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        predictions, *explanation = pictures
        page = browser.new_page(viewport={"width": 1250, "height": pictures[predictions]})
        page.goto(address)
        ask(page)
        page.get_by_role("button", name="Predict", exact=True).click()
        page.wait_for_selector("#answers table")
        if model.name == "hydration":  # to the rows that have no prediction
            page.get_by_role("heading", name="Predictions", exact=True).evaluate("heading => heading.scrollIntoView()")
        page.screenshot(path=DOCS / predictions)
        for name in explanation:
            page.get_by_role("button", name="Explain row 1", exact=True).click()
            page.wait_for_selector("#picture img")
            page.screenshot(path=DOCS / name)
        browser.close()
    server.send_signal(signal.SIGINT)
    server.wait()


if __name__ == "__main__":
    main()
