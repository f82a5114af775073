"""Plots of an audit: targets, values of duplicates, and similarity of the test part to train."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.plotting import BLUE, LIGHT_GREY, ORANGE, styled

_COLORS = {"test": BLUE, "other": LIGHT_GREY, "alarm": ORANGE}


@styled
def draw(molecules: Molecules, split: Split, duplicates: pd.DataFrame, similarity: pd.DataFrame) -> Figure:
    """Draw the targets, the values of duplicates, and the similarity of the test part to train.

    Args:
        molecules: of the table.
        split: of the molecules.
        duplicates: as duplicates.csv.
        similarity: as similarity.csv.
    """
    figure = Figure(figsize=(13, 4.4))
    target_axis, duplicates_axis, similarity_axis = figure.subplots(1, 3)
    figure.suptitle(f"{molecules.dataset.name}, {split.kind} split", fontsize=11)
    _draw_targets(target_axis, molecules, split)
    _draw_duplicates(duplicates_axis, molecules, duplicates)
    similarity_axis.hist(similarity["tanimoto"], bins=np.linspace(0, 1, 41), color=_COLORS["test"])
    similarity_axis.axvline(similarity["tanimoto"].median(), color="#222222", linewidth=1)
    similarity_axis.set(
        xlim=(0, 1),
        xlabel="Tanimoto similarity to the nearest training molecule",
        ylabel="test molecules",
        title=f"similarity of test to train, median {similarity['tanimoto'].median():.2f}",
    )
    for axis in (target_axis, duplicates_axis, similarity_axis):
        axis.title.set_fontsize(10)
    return figure


def _draw_targets(axis: Axes, molecules: Molecules, split: Split) -> None:
    dataset, y_true = molecules.dataset, molecules.y_true
    if dataset.task == "regression":
        if len(dataset.targets) == 1:
            bins = np.histogram_bin_edges(y_true[~np.isnan(y_true[:, 0]), 0], bins=40)
            for part, color in (("train", _COLORS["other"]), ("test", _COLORS["test"])):
                values = y_true[getattr(split, part), 0]
                axis.hist(values, bins=bins.tolist(), density=True, color=color, alpha=0.7, label=part)
        else:
            for index, target in enumerate(dataset.targets):
                values = y_true[~np.isnan(y_true[:, index]), index]
                axis.hist(values, bins=40, density=True, histtype="step", label=_shortened(target))
        axis.legend(fontsize=8)
        unit = f" ({dataset.unit})" if dataset.unit else ""
        axis.set(xlabel=f"{dataset.quantity or ', '.join(dataset.targets)}{unit}", ylabel="density", title="target")
        return
    active, labelled = np.nansum(y_true, axis=0), (~np.isnan(y_true)).sum(axis=0)
    positions = np.arange(len(dataset.targets))
    axis.barh(positions, active, color=_COLORS["alarm"], label="1")
    axis.barh(positions, labelled - active, left=active, color=_COLORS["other"], label="0")
    axis.barh(positions, len(y_true) - labelled, left=labelled, color="#eeeeee", label="missing")
    names = [_shortened(target) for target in dataset.targets]
    axis.set_yticks(positions, names, fontsize=6 if len(names) > 12 else 8)
    axis.invert_yaxis()
    axis.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axis.set(xlabel="molecules")


def _shortened(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _draw_duplicates(axis: Axes, molecules: Molecules, duplicates: pd.DataFrame) -> None:
    if duplicates.empty:
        axis.text(0.5, 0.5, "no structure occurs twice", ha="center", va="center", transform=axis.transAxes)
        axis.set(xticks=[], yticks=[], title="duplicates")
        return
    groups = duplicates.groupby("group")
    if molecules.dataset.task == "classification":
        spread = groups["spread"].first()
        axis.bar(
            ["labels agree", "labels differ"],
            [int((spread == 0).sum()), int((spread > 0).sum())],
            width=0.5,
            color=[_COLORS["other"], _COLORS["alarm"]],
        )
        axis.set(ylabel="structures that occur more than once", title="duplicates")
        return
    column = f"y_true_{molecules.dataset.targets[0]}"
    low, high = groups[column].min(), groups[column].max()
    axis.plot([low.min(), high.max()], [low.min(), high.max()], color="#444444", linewidth=0.8)
    axis.scatter(low, high, s=14, alpha=0.6, linewidths=0, color=_COLORS["alarm"])
    unit = f" ({molecules.dataset.unit})" if molecules.dataset.unit else ""
    axis.set(
        xlabel=f"lowest value of a structure{unit}",
        ylabel=f"highest value{unit}",
        title=f"{len(groups)} structures that occur more than once",
    )
