"""Compressed tables are read as the same tables before they were compressed."""

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from rdkit import Chem

from kflm2.data import compression
from kflm2.data.columns import find_columns
from kflm2.data.datasets import Dataset, File
from kflm2.data.reading import read_table
from kflm2.errors import DataError, SettingError
from kflm2.files import sha256_file

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    # with a checksum, as the program zstd does
    ".zst": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
TABLE = "smiles,y\nCCO,1.5\nC(C,2\n\nc1ccccc1,\nCN,>3\n"


def _dataset(path: Path) -> Dataset:
    return Dataset(name="own", files=(File(path),), targets=("y",), task="regression", smiles_column="smiles")


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_compressed_table_has_the_rows_rejections_and_digest_of_the_plain_one(tmp_path: Path, ending: str) -> None:
    plain, packed = tmp_path / "own.csv", tmp_path / f"own.csv{ending.upper()}"
    plain.write_text(TABLE)
    packed.write_bytes(COMPRESS[ending](TABLE.encode()))
    expected, molecules = read_table(_dataset(plain)), read_table(_dataset(packed))
    assert molecules.smiles == expected.smiles == ["CCO", "CN"]
    assert molecules.rows.tolist() == [1, 4]
    assert [rejection.row for rejection in molecules.rejected] == [2, 3]
    assert molecules.rejected == expected.rejected
    assert molecules.sha256 == expected.sha256 == sha256_file(plain)
    packed.write_bytes(COMPRESS[ending](TABLE.replace("1.5", "1.6").encode()))
    assert read_table(_dataset(packed)).sha256 != expected.sha256


def test_a_gzip_of_several_parts_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    # as bgzip and `cat a.gz b.gz` write it
    path.write_bytes(gzip.compress(b"smiles,y\nC,1\n") + gzip.compress(b"CC,2\n"))
    assert read_table(_dataset(path)).smiles == ["C", "CC"]


def test_a_compressed_sdf_is_an_sdf(tmp_path: Path) -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("C")) + ">  <y>\n2.5\n\n$$$$\n"
    path = tmp_path / "a.sdf.gz"
    path.write_bytes(gzip.compress(block.encode()))
    assert find_columns(path, None, ["y"], [], None) == (None, "regression")
    molecules = read_table(_dataset(path))
    assert (molecules.smiles, molecules.y_true.tolist()) == (["C"], [[2.5]])


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("damage", ["foreign", "cut", "flipped"])
def test_a_damaged_file_is_an_error_of_one_line(tmp_path: Path, ending: str, damage: str) -> None:
    whole = bytearray(COMPRESS[ending](TABLE.encode() * 1000))
    if damage == "flipped":
        for place in range(len(whole) // 2, len(whole) // 2 + 8):
            whole[place] ^= 0xFF
    path = tmp_path / f"a.csv{ending}"
    path.write_bytes({"foreign": TABLE.encode(), "cut": bytes(whole[:-12]), "flipped": bytes(whole)}[damage])
    with pytest.raises(DataError, match=r"a\.csv\.\w+ cannot be decompressed, it is damaged") as error:
        read_table(_dataset(path))
    assert "\n" not in str(error.value)


def test_a_table_that_would_fill_the_memory_is_refused_before_it_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv.gz"
    monkeypatch.setattr(compression, "MOST_BYTES", 1 << 22)
    path.write_bytes(gzip.compress(b"smiles,y\n" + b"C,1\n" * (1 << 20)))
    with pytest.raises(DataError, match=r"more than 4,194,304 bytes when it is decompressed"):
        read_table(_dataset(path))
    path.write_bytes(gzip.compress(b"smiles,y\n" + b"C,1\n" * 1000))
    assert read_table(_dataset(path)).read == 1000


def test_without_the_package_for_zstd_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv.zst"
    path.write_bytes(zstd.compress(TABLE.encode()))
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingError, match=r"pip install 'kflm2\[zstd\]'"):
        read_table(_dataset(path))


def test_a_packed_table_with_the_ending_of_a_plain_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(TABLE.encode()))
    with pytest.raises(DataError, match=r"is a gzipped file; .* a compressed one as \.csv\.gz"):
        read_table(_dataset(path))
