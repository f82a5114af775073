"""Accuracy of the six pipelines on SAMPL, random and scaffold splits: the README's table and picture.

    python benchmark/sampl.py                    # train all: six pipelines, two splits, ten seeds each
    python benchmark/sampl.py --split random     # one split only
    python benchmark/sampl.py --show             # table and picture from results that are there

Each pipeline runs with its own defaults and the base LLM (no adapter), as `kflm2 train SAMPL --model NAME --adapter none`
does. The figures are test RMSE in kcal/mol, mean ± sample standard deviation of ten seeds; a dot is a seed.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from kflm2.experiment import run
from kflm2.files import atomic
from kflm2.settings import MODELS, TrainSettings

OUT = Path("results")
PICTURE = Path(__file__).parents[1] / "docs" / "sampl.png"
SPLITS = ("random", "scaffold")
COLORS = {"random": "#0072b2", "scaffold": "#e69f00"}
# Means of the five runs, of ten, that the paper's authors published for KFLM2 on SAMPL.
PUBLISHED = {"random": 1.079, "scaffold": 2.348}


def main() -> None:
    """Train what is asked for, then print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=SPLITS, help="train one split only")
    parser.add_argument("--show", action="store_true", help="train nothing")
    options = parser.parse_args()
    if not options.show:
        for split in (options.split,) if options.split else SPLITS:
            for model in MODELS:
                settings = TrainSettings.of(model, dataset="SAMPL", split=split, adapter="none", out=OUT)
                settings.check()
                run(settings)
    summaries = {
        (model, split): json.loads(path.read_text())
        for model in MODELS
        for split in SPLITS
        if (path := OUT / "SAMPL" / model / f"summary-{split}.json").exists()
    }
    print(table(summaries))
    draw(summaries)
    print(f"\npicture: {PICTURE}")


def table(summaries: dict[tuple[str, str], dict]) -> str:
    """The table in Markdown."""
    lines = [
        "| pipeline | views, fusion | random | scaffold |",
        "|---|---|---|---|",
    ]
    for model, recipe in MODELS.items():
        cells = []
        for split in SPLITS:
            figures = summaries.get((model, split))
            test = figures["metrics"]["test"]["RMSE"] if figures else None
            cells.append(f"{test['mean']:.3f} ± {test['sd']:.3f}" if test else "-")
        lines.append(f"| {model} | {recipe.about} | {' | '.join(cells)} |")
    published = " | ".join(f"{PUBLISHED[split]:.3f}" for split in SPLITS)
    lines.append(f"| published | KFLM2 as its authors published it, five runs of ten | {published} |")
    return "\n".join(lines)


def draw(summaries: dict[tuple[str, str], dict]) -> None:
    """A row a pipeline: a dot a seed, a bar for the mean, and the published mean as a line."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    axes = figure.subplots(1, len(SPLITS), sharey=True)
    names = list(MODELS)
    for axis, split in zip(axes, SPLITS, strict=True):
        for place, model in enumerate(names):
            if (model, split) not in summaries:
                continue
            test = summaries[model, split]["metrics"]["test"]["RMSE"]
            axis.scatter(test["values"], [place] * len(test["values"]), s=16, alpha=0.55, color=COLORS[split], lw=0)
            axis.scatter(test["mean"], place, marker="|", s=260, linewidths=2.2, color="#222222", zorder=3)
            axis.annotate(
                f"{test['mean']:.2f}",
                (test["mean"], place),
                (0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axis.axvline(PUBLISHED[split], color="#888888", linewidth=1, linestyle="--")
        axis.annotate(
            f"published {PUBLISHED[split]:.2f}",
            (PUBLISHED[split], len(names) - 0.45),
            (4, 0),
            textcoords="offset points",
            fontsize=8,
            color="#666666",
            va="center",
        )
        axis.set(xlabel="test RMSE (kcal/mol)", title=f"{split} split", ylim=(len(names) - 0.2, -0.7))
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yticks(range(len(names)), names)
    with atomic(PICTURE) as temporary:
        figure.savefig(temporary, dpi=150)


if __name__ == "__main__":
    main()
