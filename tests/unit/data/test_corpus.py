"""A corpus as a stream: all file formats, all counts, and constant memory."""

import gzip
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from kflm2.data import corpus
from kflm2.data.corpus import (
    CorpusFilter,
    CorpusStats,
    ExcludedStructures,
    ReservoirSample,
    find_corpus,
    fragments,
    is_held_out,
    randomized,
    stream,
    structures_of_datasets,
)
from kflm2.data.structures import skeletons
from kflm2.errors import DataError, SettingError

SMILES = ["CCO", "c1ccccc1", "C#N", "CC(=O)O"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.smi", "CCO ethanol\n\nc1ccccc1\tbenzene\n C#N\r\nCC(=O)O"),
        ("a.txt", "\ufeffCCO\nc1ccccc1\nC#N\nCC(=O)O\n"),
        ("a.csv", 'id,smiles\n1,CCO\n2,"c1ccccc1\n"\n3, C#N \n4,CC(=O)O\n'),
        ("A.CSV", "id, smiles \n1,CCO\n2,c1ccccc1\n3,C#N\n4,CC(=O)O\n"),
        ("a.tsv", "canonical_smiles\tid\nCCO\t1\nc1ccccc1\t2\nC#N\t3\nCC(=O)O\t4\n"),
    ],
)
def test_a_file_is_read_by_its_format_gzipped_or_not(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert list(stream(tmp_path / name)) == SMILES
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert list(stream(tmp_path / f"{name}.gz")) == SMILES


def test_a_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,name\n1,CCO\n")
    (tmp_path / "b.smi.gz").write_bytes(gzip.compress(b"CCO\n" * 5000)[:40])
    (tmp_path / "c.smi").write_bytes(b"\xff\xfe\x00")
    for name, text in (("a.csv", "no column smiles or SMILES"), ("b.smi.gz", "cannot be read"), ("c.smi", "cannot be")):
        with pytest.raises(DataError, match=rf"corpus .*{name}.*{text}") as error:
            list(stream(tmp_path / name))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [("my.v1.smi", "my.v1"), ("my.v2.csv.gz", "my.v2"), ("own.SMI", "own"), ("plain", "plain"), (".smi", ".smi")],
)
def test_only_the_ending_is_no_part_of_a_corpus_name(tmp_path: Path, file: str, name: str) -> None:
    """Two adapters would share a folder if two corpora had one name."""
    (tmp_path / file).touch()
    assert find_corpus(str(tmp_path / file)).name == name


def test_a_corpus_is_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "project_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"zinc_sample\.smi; it is part of the repository, or name any file of SMILES"):
        find_corpus("auto")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "zinc_sample.smi").write_text("CCO\n")
    assert find_corpus("auto").name == "zinc_sample"
    with pytest.raises(DataError, match="kflm2 datasets get ZINC"):
        find_corpus("ZINC")
    (tmp_path / "dataset" / "chembl.smi").write_text("CCO\n")
    assert find_corpus("auto").name == "ChEMBL"
    path = tmp_path / "mine.smi.gz"
    path.write_bytes(b"")
    assert find_corpus(str(path)).name == "mine"
    with pytest.raises(SettingError, match="choose auto, one of ZINC, ChEMBL, MOSES, zinc_sample"):
        find_corpus("zinc")


def test_unreadable_and_excluded_molecules_are_left_out_and_counted(tmp_path: Path) -> None:
    unreadable = [f"C({'C' * i}" for i in range(30)]
    (tmp_path / "a.smi").write_text("\n".join(["CCO", *unreadable, "OC(C)=O", "CCN", "CCC", "CCCC"]) + "\n")
    stats = CorpusStats()
    # acetic acid is excluded, whichever of its SMILES is in the corpus
    excluded = ExcludedStructures.of(["CC(=O)O"])
    smiles = list(CorpusFilter(tmp_path / "a.smi", excluded, limit=3).training_smiles(stats))
    assert smiles == ["CCO", "CCN", "CCC"]
    assert (stats.read, stats.used, stats.unreadable, stats.excluded) == (34, 3, 30, 1)
    assert len(stats.shown) == 20
    assert stats.shown[0].row == 2


def test_the_structures_of_available_datasets_are_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KFLM2_DATASETS", raising=False)
    excluded = structures_of_datasets()
    assert "SAMPL" in excluded.names
    assert excluded.contains("CN(C)C(=O)c1ccc(cc1)OC")
    assert excluded.contains("COc1ccc(C(=O)N(C)C)cc1")
    assert not excluded.contains("COc1ccc(C(=O)N(C)CCCCCCCl)cc1")
    assert structures_of_datasets() == excluded


def test_a_structure_is_contained_whichever_smiles_it_has() -> None:
    """The degree counts, which are compared first, must not separate structures with the same skeleton."""
    pairs = [
        ("C[N+](=O)[O-]", "CN(=O)=O"),
        ("O=c1cccc[nH]1", "Oc1ccccn1"),
        ("[Na+].[Cl-]", "[Na]Cl"),
        ("[2H]OC", "CO[2H]"),
        ("C[NH3+].[Cl-]", "CN.Cl"),
        ("[O-]C=O.[K+]", "O=CO[K]"),
        ("C[C@H](N)C(=O)O", "CC([NH3+])C(=O)O.[Cl-]"),
        ("CCN", "CCN.OC(=O)C(O)=O"),
    ]
    for first, second in pairs:
        assert ExcludedStructures.of([first]).contains(second), (first, second)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        path = tmp_path / f"{lines}.smi"
        with path.open("w") as file:
            file.writelines(f"{text}\n" for text in itertools.islice(itertools.cycle(SMILES), lines))
        tracemalloc.start()
        assert sum(1 for _ in CorpusFilter(path).training_smiles()) == lines
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak_bytes

    peak(100)  # imports and caches of the first call
    assert peak(20_000) < peak(3_000) + 50_000


def test_held_out_molecules_have_about_the_given_share_and_are_reproducible() -> None:
    texts = [f"C{'N' * i}" for i in range(5000)]
    held_out = [is_held_out(text, 0.02) for text in texts]
    assert 50 < sum(held_out) < 150
    assert held_out == [is_held_out(text, 0.02) for text in texts]
    assert not any(is_held_out(text, 0.0) for text in texts)


def test_a_randomized_smiles_is_of_the_same_molecule() -> None:
    smiles = "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O"
    variants = {randomized(smiles, seed) for seed in range(20)}
    assert len(variants) > 10
    assert {Chem.CanonSmiles(text) for text in variants} == {Chem.CanonSmiles(smiles)}
    assert randomized(smiles, 3) == randomized(smiles, 3)


def test_fragments_are_small_valid_molecules() -> None:
    smiles = "COc1ccc(C(=O)NCC2CCCN2S(C)(=O)=O)cc1Cl"
    pieces = fragments(smiles)
    assert len(pieces) > 3
    assert pieces == fragments(smiles)
    whole = Chem.MolFromSmiles(smiles)
    for text in pieces:
        mol = Chem.MolFromSmiles(text)
        assert Chem.MolToSmiles(mol) == text
        assert mol.GetNumAtoms() < whole.GetNumAtoms()
        # every bond is closed, by an atom or by hydrogen
        assert not any(atom.GetAtomicNum() == 0 or atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    assert fragments("c1ccccc1") == []


def test_each_fragment_is_trained_on_once_and_none_of_held_out_molecules(tmp_path: Path) -> None:
    smiles = [f"{'C' * i}NC(=O)c1ccc(OC{'C' * j})cc1" for i in range(1, 7) for j in range(10)]
    (tmp_path / "a.smi").write_text("\n".join(smiles) + "\n")
    stats = CorpusStats()
    corpus_filter = CorpusFilter(tmp_path / "a.smi", held_out=0.3, fragments=True)
    training = list(corpus_filter.training_smiles(stats))
    assert training == list(corpus_filter.training_smiles())
    assert stats.training == len(training) == len(set(training))
    held_out = [text for text in smiles if is_held_out(text, 0.3)]
    assert stats.held_out == len(held_out) > 5
    assert stats.held_out_sample.texts == held_out
    assert sorted(stats.training_sample.texts) == sorted(training)
    assert stats.used - stats.held_out + stats.fragments == len(training)
    pieces = {piece for text in smiles if text not in held_out for piece in fragments(text)}
    assert set(training) == {text for text in {*smiles, *pieces} if not is_held_out(text, 0.3)}
    excluded = next(text for text in training if text not in smiles)
    corpus_filter = CorpusFilter(tmp_path / "a.smi", ExcludedStructures.of([excluded]), held_out=0.3, fragments=True)
    remaining = list(corpus_filter.training_smiles())
    assert [text for text in training if skeletons(text) != skeletons(excluded)] == remaining


def test_fragments_contain_no_dummy_atom() -> None:
    assert "*" not in "".join(fragments("CCNC(=O)C*C(=O)NCC"))


def test_a_reservoir_sample_is_uniform_and_reproducible() -> None:
    sample, repeated = ReservoirSample(800), ReservoirSample(800)
    for number in range(20_000):
        sample.add(str(number))
        repeated.add(str(number))
    assert sample.texts == repeated.texts
    assert len(set(sample.texts)) == 800
    quarters = np.histogram([int(text) for text in sample.texts], bins=4, range=(0, 20_000))[0]
    assert (abs(quarters - 200) < 50).all()  # four standard deviations


def test_smiles_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("CCO\nCCCCCCCC\n")
    stats = CorpusStats()
    assert list(CorpusFilter(tmp_path / "a.smi", longest=7).training_smiles(stats)) == ["CCO"]
    assert [(rejection.row, rejection.reason) for rejection in stats.shown] == [
        (2, "8 characters; the LLM reads 7 at once")
    ]
