"""Accuracy of the pipelines on SAMPL, random and scaffold splits: the table of docs/results.md, the README's picture.

    python benchmark/sampl.py                    # train all: about an hour and a half on one core
    python benchmark/sampl.py --split random     # one split only
    python benchmark/sampl.py --show             # table and picture from existing results

The six pipelines run with their default settings; those that read a graph run also with the gine encoder. All use the
base LLM (no adapter), as `kflm2 train SAMPL --model NAME --adapter none [--graph-encoder gine]`. The metric is test
RMSE in kcal/mol, mean ± sample standard deviation of seeds 0 to 9; a dot is a seed.
"""

import argparse
import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import TrainConfig
from kflm2.files import atomic
from kflm2.stages.train.stage import run

OUT = Path("results")
PICTURE = Path(__file__).parents[1] / "docs" / "sampl.png"
SPLITS = ("random", "scaffold")
COLORS = {"random": "#0072b2", "scaffold": "#e69f00"}
# (model, graph encoder); "" where there is no graph
ROWS = (
    ("combined_base", ""),
    *((model, "gcn") for model in ("gcn_indepent", "combined", "combinedAtt", "combinedSepAtt")),
    ("crossAtt", "gine"),
    *((model, "gine") for model in ("gcn_indepent", "combined", "combinedAtt", "combinedSepAtt")),
)
# Means over the five runs, of ten, that the paper's authors published for KFLM2 on SAMPL.
PUBLISHED = {"random": 1.079, "scaffold": 2.348}


def main() -> None:
    """Train the requested pipelines, then print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=SPLITS, help="train one split only")
    parser.add_argument("--show", action="store_true", help="train nothing")
    options = parser.parse_args()
    splits = () if options.show else (options.split,) if options.split else SPLITS
    for split in splits:
        for model, graph in reversed(ROWS):
            encoder = {"graph_encoder": graph} if graph else {}
            # one model of each pipeline, crossAtt too
            settings = {"inner": "holdout", "adapter": "none", "out": _folder(graph), **encoder}
            config = TrainConfig.of(model, dataset="SAMPL", split=split, **settings)
            config.check()
            run(config)
    rmse = {
        (model, graph, split): json.loads(path.read_text())["metrics"]["test"]["RMSE"]
        for model, graph in ROWS
        for split in SPLITS
        if (path := _folder(graph) / "SAMPL" / model / f"summary-{split}.json").exists()
    }
    print(table(rmse))
    draw(rmse)
    print(f"\npicture: {PICTURE}")


def _folder(graph: str) -> Path:
    return OUT / "gine" if graph == "gine" else OUT


def table(rmse: dict[tuple[str, str, str], dict]) -> str:
    """The table in Markdown."""
    lines = ["| pipeline | fusion | graph | random | scaffold |", "|---|---|---|---|---|"]
    for model, graph in ROWS:
        cells = []
        for split in SPLITS:
            test = rmse.get((model, graph, split))
            cells.append(f"{test['mean']:.3f} ± {test['sd']:.3f}" if test else "-")
        lines.append(f"| {model} | {PIPELINES[model].about} | {graph or '-'} | {' | '.join(cells)} |")
    published = " | ".join(f"{PUBLISHED[split]:.3f}" for split in SPLITS)
    lines.append(f"| published KFLM2 | the authors' five runs of ten, 1.5 B LLM | gcn | {published} |")
    return "\n".join(lines)


def draw(rmse: dict[tuple[str, str, str], dict]) -> None:
    """A row for each pipeline: a dot for each seed, a bar for the mean, and the published mean as a line."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    axes = figure.subplots(1, len(SPLITS), sharey=True)
    for axis, split in zip(axes, SPLITS, strict=True):
        _panel(axis, split, {position: rmse.get((*row, split)) for position, row in enumerate(ROWS)})
    axes[0].set_yticks(range(len(ROWS)), [f"{model}, {graph}" if graph else model for model, graph in ROWS])
    with atomic(PICTURE) as temporary:
        figure.savefig(temporary, dpi=150)


def _panel(axis: Axes, split: str, rows: dict[int, dict | None]) -> None:
    for position, test in rows.items():
        if test is None:
            continue
        axis.scatter(test["values"], [position] * len(test["values"]), s=16, alpha=0.55, color=COLORS[split], lw=0)
        axis.scatter(test["mean"], position, marker="|", s=240, linewidths=2.2, color="#222222", zorder=3)
        label = f"{test['mean']:.2f}"
        axis.annotate(label, (test["mean"], position), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    if split == "random":  # the authors' scaffold split differs from ours
        published = PUBLISHED[split]
        axis.axvline(published, color="#888888", linewidth=1, linestyle="--", zorder=0)
        label = f"published {published:.2f}"
        axis.annotate(label, (published, -0.75), (4, 0), textcoords="offset points", fontsize=8, color="#666666")
    axis.set(xlabel="test RMSE (kcal/mol)", title=f"{split} split", ylim=(len(rows) - 0.4, -1.1))
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
