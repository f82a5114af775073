"""Files are written completely or not at all; values are cached."""

import threading
from pathlib import Path

import pytest

from kflm2.errors import KFLM2Error
from kflm2.files import (
    atomic,
    atomic_folder,
    cached_json,
    cached_path,
    sha256_file,
    sha256_texts,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError(temporary.suffix)

    with pytest.raises(RuntimeError, match=r"\.txt"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "model"
    for text in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / text).write_text(text)
    assert [path.name for path in folder.iterdir()] == ["new"]

    def fail(lose: bool) -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "half").write_text("half")
            if not lose:
                raise RuntimeError
            (temporary / "half").unlink()
            temporary.rmdir()  # so that it cannot be moved into place

    for lose, error in ((False, RuntimeError), (True, KFLM2Error)):
        with pytest.raises(error):
            fail(lose)
        assert [path.name for path in folder.iterdir()] == ["new"] and list(folder.parent.iterdir()) == [folder]


def test_a_reader_never_sees_an_incomplete_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    texts = [letter * 300_000 for letter in "ab"]
    write_text(path, texts[0])
    done = threading.Event()

    def write() -> None:
        for i in range(30):
            write_text(path, texts[i % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_text())
    thread.join()
    assert seen <= set(texts)


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"RMSE": float("nan")})
    assert not list(tmp_path.glob("*x*"))


def test_digests(tmp_path: Path) -> None:
    assert sha256_texts(["ab", "c"]) != sha256_texts(["a", "bc"])
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_cached_value_is_computed_once_for_each_key() -> None:
    computed: list[int] = []

    def compute(value: int) -> list[list[object]]:
        computed.append(value)
        return [["é", value, None]]

    for value in (1, 2, 1):
        assert cached_json("x", {"value": value}, lambda: compute(value)) == [["é", value, None]]  # noqa: B023
    assert computed == [1, 2]
    cached_path("x", {"value": 2}, ".json").write_text("[[")
    assert cached_json("x", {"value": 2}, lambda: compute(2)) == [["é", 2, None]]
    assert computed == [1, 2, 2]
