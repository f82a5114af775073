"""Tables as text: aligned columns for a terminal, or Markdown."""

from collections.abc import Collection, Iterable, Sequence

Rows = Sequence[Sequence[str]]


def aligned(rows: Rows, left: Collection[int] = (0,)) -> list[str]:
    """Lines with columns as wide as they need, two blanks apart.

    Args:
        rows: cells, the header first. The last cell of a row that is shorter than the header is a remark and may be
            wider than its column.
        left: columns that are aligned to the left, as words are; the others, numbers, to the right.
    """
    length = max(map(len, rows))
    whole = [row for row in rows if len(row) == length]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]

    def line(row: Sequence[str]) -> str:
        last = len(row) - 1
        cells = [
            cell
            if index == last and len(row) < length
            else cell.ljust(widths[index])
            if index in left
            else cell.rjust(widths[index])
            for index, cell in enumerate(row)
        ]
        return "  ".join(cells).rstrip()

    return [line(row) for row in rows]


def markdown(rows: Rows, left: Collection[int] = (0,)) -> list[str]:
    """Lines of a Markdown table; see aligned."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    rule = "|".join("---" if index in left else "--:" for index in range(len(rows[0])))
    return [head, f"|{rule}|", *body]


def percent_range(shares: Iterable[float]) -> str:
    """Lowest and highest share, as a percentage; one number where both are the same when rounded."""
    values = sorted(shares)
    low, high = (f"{100 * value:.2g}" if value < 0.01 else f"{100 * value:.0f}" for value in (values[0], values[-1]))
    return f"{high} %" if low == high else f"{low} to {high} %"


def mean_and_std(mean: float | None, std: float | None, digits: int = 3, unit: bool = False) -> str:
    """`mean ± std`; the mean alone of one run, `-` where there is none.

    Args:
        mean: number.
        std: number.
        digits: after the point.
        unit: whether they are in a unit, which may be any; see format_of.
    """
    if mean is None:
        return "-"
    form = format_of([mean], digits) if unit else f".{digits}f"
    return f"{mean:{form}}" if std is None else f"{mean:{form}} ± {std:{form}}"


def format_of(numbers: Iterable[float], digits: int = 3) -> str:
    """The format of numbers in a unit: fixed digits, or significant ones where these would be zeros or far too many."""
    largest = max(map(abs, numbers), default=0.0)
    return f".{digits}f" if 0.01 <= largest < 1e5 or largest == 0 else ".3g"
