"""One style and one way to save for all plots that matplotlib draws."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator

from kflm2 import resources
from kflm2.files import atomic

PART_COLOURS = {"train": "#9aa5b1", "valid": "#e69f00", "test": "#0072b2"}
"""Colours of the parts of a split. These and the next ones can be told apart by the colour-blind too."""
BLUE, ORANGE, GREY, LIGHT_GREY, SHADE, INK = "#0072b2", "#d55e00", "#7f8c8d", "#9aa5b1", "#ecf0f1", "#444444"

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a function that draws in the project's style; resources/plots.mplstyle holds it."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(fname=resources.packaged("plots.mplstyle")):
            return draw(*args, **kwargs)

    return in_style


@styled
def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Write a matplotlib figure atomically; the suffix of the path chooses the format.

    Args:
        figure: to write.
        path: of the file.
        options: of matplotlib's savefig.
    """
    with atomic(path) as temporary:
        figure.savefig(temporary, **options)


def use_log_scale(axis: Axes) -> None:
    """A logarithmic y axis for what is plotted already, with ticks in plain numbers.

    Powers of ten are hard to read within a decade or two.
    """
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(MaxNLocator(5) if high < 10 * low else LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
