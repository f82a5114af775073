"""Progress in a log: lines that can be read, and few of them."""

import io
import sys

import pytest

from kflm2 import progress
from kflm2.progress import Progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _written(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **options: object) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(total=40, desc="crossAtt", unit="epoch", **options) as bar:
        for _ in range(40):
            bar.update()
        bar.set_postfix_str("valid RMSE 0.5")
    return stream.getvalue()


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _written(monkeypatch, _Terminal())
    assert "\r" in text and "100%|" in text


@pytest.mark.parametrize("leave", [True, False])
def test_a_log_has_lines(monkeypatch: pytest.MonkeyPatch, leave: bool) -> None:
    monkeypatch.setattr(progress, "_SHORT", 0.0)
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    text = _written(monkeypatch, io.StringIO(), leave=leave)
    lines = text.splitlines()
    assert "\r" not in text and len(lines) > 3 and all(line.startswith("crossAtt: ") for line in lines)
    if leave:
        assert lines[-1].startswith("crossAtt: 40/40 epoch, ") and lines[-1].endswith(", valid RMSE 0.5")


def test_a_log_has_nothing_of_short_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _written(monkeypatch, io.StringIO()) == ""


def test_a_log_has_one_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SHORT", 0.0)
    # the start and the end
    assert len(_written(monkeypatch, io.StringIO()).splitlines()) <= 3
