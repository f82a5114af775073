"""Make docs/report.png and docs/explain-*.png: the output of `kflm2 report` and `kflm2 explain` for SAMPL.

    python docs/make_pictures.py [FOLDER]

Trains and saves crossAtt, trains a graph network on two splits, and audits the dataset, all in FOLDER (default: a
temporary one), in about 15 minutes on 2 cores; existing results are not computed again. Needs Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parent
KFLM2 = Path(sys.executable).with_name("kflm2")
MOLECULES = {"aspirin": "CC(=O)Oc1ccccc1C(=O)O", "caffeine": "Cn1cnc2c1c(=O)n(C)c(=O)n2C"}
WIDTH, HEIGHT = 1280, 1950


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


if __name__ == "__main__":
    main()
