"""The feature cache: correct rows, each computed once, also after errors and with several processes."""

import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kflm2.featurize.cache import FeatureCache, cached_arrays
from kflm2.featurize.ragged import Ragged


def _rows(texts: list[str], scale: float = 1.0) -> Ragged:
    """A row for each text, as long as the text and different from the rows of other texts."""
    return Ragged.pack([np.outer(np.arange(len(text)) + ord(text[0]), [scale, 2.0]) for text in texts])


class Counter:
    """Computes rows and records for which texts."""

    def __init__(self, scale: float = 1.0, stop_after: int | None = None) -> None:
        self.seen: list[str] = []
        self.scale, self.stop_after = scale, stop_after

    def __call__(self, missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        for start in range(0, len(missing), 2):
            group = missing[start : start + 2]
            if self.stop_after is not None and len(self.seen) >= self.stop_after:
                raise KeyboardInterrupt
            self.seen += group
            yield group, _rows(group, self.scale)


def test_rows_are_in_the_order_of_the_texts_and_computed_once(tmp_path: Path) -> None:
    texts = ["ccc", "a", "bb", "ccc", "dddd", "a"]
    compute = Counter()
    for _ in range(2):
        rows = FeatureCache("x", {"layer": 1}, tmp_path).get(texts, compute)
        np.testing.assert_array_equal(rows.values, _rows(texts).values)
        assert rows.lengths.tolist() == [3, 1, 2, 3, 4, 1]
    assert sorted(compute.seen) == ["a", "bb", "ccc", "dddd"]
    more = FeatureCache("x", {"layer": 1}, tmp_path).get(["e", "bb"], compute)
    np.testing.assert_array_equal(more.values, _rows(["e", "bb"]).values)
    assert compute.seen.count("bb") == 1


def test_another_layer_or_adapter_is_another_namespace(tmp_path: Path) -> None:
    for scale, parts in ((1.0, {"layer": 1}), (3.0, {"layer": 2}), (5.0, {"layer": 1, "adapter": "a"})):
        rows = FeatureCache("x", parts, tmp_path).get(["bb", "a"], Counter(scale))
        np.testing.assert_array_equal(rows.values, _rows(["bb", "a"], scale).values)


def test_texts_that_differ_in_case_or_blanks_do_not_share_a_row(tmp_path: Path) -> None:
    texts = ["cc", "CC", "cc ", "c c"]
    rows = FeatureCache("x", {}, tmp_path).get(texts, Counter())
    np.testing.assert_array_equal(rows.values, _rows(texts).values)


def test_an_interrupted_process_keeps_the_rows_it_has_written(tmp_path: Path) -> None:
    texts = ["a", "bb", "ccc", "dddd", "e"]
    with pytest.raises(KeyboardInterrupt):
        FeatureCache("x", {}, tmp_path).get(texts, Counter(stop_after=4))
    compute = Counter()
    rows = FeatureCache("x", {}, tmp_path).get(texts, compute)
    assert compute.seen == ["e"]
    np.testing.assert_array_equal(rows.values, _rows(texts).values)


def test_a_row_of_length_zero_is_cached_too(tmp_path: Path) -> None:
    def compute(missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        yield missing, Ragged(np.zeros((0, 2)), np.zeros(len(missing) + 1, dtype=np.int64))

    def never(missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        raise AssertionError(missing)

    cache = FeatureCache("x", {}, tmp_path)
    for function in (compute, never):
        assert cache.get(["a", "b"], function).lengths.tolist() == [0, 0]


def test_a_damaged_shard_is_computed_again(tmp_path: Path) -> None:
    cache = FeatureCache("x", {}, tmp_path)
    cache.get(["a", "bb"], Counter())
    (shard,) = cache.folder.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:40])
    compute = Counter()
    np.testing.assert_array_equal(cache.get(["bb", "a"], compute).values, _rows(["bb", "a"]).values)
    assert sorted(compute.seen) == ["a", "bb"]


def _worker(root: Path, texts: list[str], out: Path) -> None:
    compute = Counter()
    rows = FeatureCache("x", {}, root).get(texts, compute)
    np.savez(out, values=rows.values, seen=np.array(compute.seen))


def test_concurrent_processes_compute_each_row_once(tmp_path: Path) -> None:
    texts = [letter * (1 + i % 3) for i, letter in enumerate("abcdefghijklmnop")]
    orders = [texts, texts[::-1], texts[3:] + texts[:3]]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_worker, args=(tmp_path / "cache", order, tmp_path / f"{i}.npz"))
        for i, order in enumerate(orders)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    seen = []
    for i, order in enumerate(orders):
        with np.load(tmp_path / f"{i}.npz") as saved:
            np.testing.assert_array_equal(saved["values"], _rows(order).values)
            seen += saved["seen"].tolist()
    assert sorted(seen) == sorted(texts)


def test_rows_on_disk_equal_rows_in_memory(tmp_path: Path) -> None:
    texts = ["ccc", "a", "bb", "ccc", "dddd", "a"]
    cache = FeatureCache("x", {}, tmp_path)
    stored, memory = cache.rows(texts, Counter()), cache.get(texts, Counter())
    assert (len(stored), stored.width) == (6, 2)
    assert stored.lengths.tolist() == memory.lengths.tolist()
    order = np.array([4, 0, 0, 2])
    for rows, expected in (
        (stored.take(order), memory.take(order)),
        (stored.subset(order).take(np.array([3, 1])), memory.take(order[[3, 1]])),
    ):
        np.testing.assert_array_equal(rows.values, expected.values)
        np.testing.assert_array_equal(rows.ptr, expected.ptr)


def test_a_request_for_other_texts_does_not_wait(tmp_path: Path) -> None:
    """A second request while the first is computing: with a single lock for all texts this would never end."""

    def outer(missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        inner = FeatureCache("x", {}, tmp_path).get(["dddd", "a"], Counter())
        np.testing.assert_array_equal(inner.values, _rows(["dddd", "a"]).values)
        yield missing, _rows(missing)

    rows = FeatureCache("x", {}, tmp_path).get(["a", "bb"], outer)
    np.testing.assert_array_equal(rows.values, _rows(["a", "bb"]).values)


def test_arrays_are_computed_once_for_the_values_they_depend_on(cache: Path) -> None:
    computed: list[int] = []

    def compute(value: int) -> dict[str, np.ndarray]:
        computed.append(value)
        return {"a": np.full((2, 3), value, dtype=np.uint8), "b": np.array([value])}

    for value in (1, 1, 2, 1):
        arrays = cached_arrays("things", {"value": value}, partial(compute, value))
        assert arrays["a"].tolist() == [[value] * 3] * 2
        assert arrays["b"].tolist() == [value]
    assert computed == [1, 2]
    for path in (cache / "features").glob("things-*"):
        path.write_bytes(path.read_bytes()[:20])
    assert cached_arrays("things", {"value": 2}, lambda: compute(2))["b"].tolist() == [2]
    assert computed == [1, 2, 2]
