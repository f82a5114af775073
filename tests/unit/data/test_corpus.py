"""A corpus as a stream: every usual file, everything counted, and memory that does not grow."""

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
    Reservoir,
    find_corpus,
    fragments,
    is_held_out,
    randomized,
    stream,
    structures_of_datasets,
)
from kflm2.data.structures import identity
from kflm2.errors import DataError, SettingError

SMILES = ["CCO", "c1ccccc1", "C#N", "CC(=O)O"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.smi", "CCO ethanol\n\nc1ccccc1\tbenzene\n C#N\r\nCC(=O)O"),
        ("a.txt", "\ufeffCCO\nc1ccccc1\nC#N\nCC(=O)O\n"),
        ("a.csv", 'id,smiles\n1,CCO\n2,"c1ccccc1\n"\n3, C#N \n4,CC(=O)O\n'),
        ("a.tsv", "canonical_smiles\tid\nCCO\t1\nc1ccccc1\t2\nC#N\t3\nCC(=O)O\t4\n"),
    ],
)
def test_a_file_is_read_by_what_it_is_packed_or_not(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert list(stream(tmp_path / name)) == SMILES
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    assert list(stream(tmp_path / f"{name}.gz")) == SMILES


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,name\n1,CCO\n")
    (tmp_path / "b.smi.gz").write_bytes(gzip.compress(b"CCO\n" * 5000)[:40])
    (tmp_path / "c.smi").write_bytes(b"\xff\xfe\x00")
    for name, told in (("a.csv", "no column smiles or SMILES"), ("b.smi.gz", "cannot be read"), ("c.smi", "cannot be")):
        with pytest.raises(DataError, match=rf"corpus .*{name}.*{told}") as caught:
            list(stream(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_corpus_is_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "project_folder", lambda: tmp_path)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "zinc_sample.smi").write_text("CCO\n")
    assert find_corpus("auto").name == "zinc_sample"
    with pytest.raises(DataError, match="kflm2 datasets get ZINC"):
        find_corpus("ZINC")
    (tmp_path / "dataset" / "chembl.smi").write_text("CCO\n")
    assert find_corpus("auto").name == "ChEMBL"
    own = tmp_path / "own.smi.gz"
    own.write_bytes(b"")
    assert find_corpus(str(own)).name == "own"
    with pytest.raises(SettingError, match="choose auto, one of ZINC, ChEMBL, MOSES, zinc_sample"):
        find_corpus("zinc")


def test_unreadable_and_tested_molecules_are_left_out_and_counted(tmp_path: Path) -> None:
    bad = [f"C({'C' * i}" for i in range(30)]
    (tmp_path / "a.smi").write_text("\n".join(["CCO", *bad, "OC(C)=O", "CCN", "CCC", "CCCC"]) + "\n")
    stats = CorpusStats()
    # acetic acid is excluded however it is written
    found = list(CorpusFilter(tmp_path / "a.smi", ExcludedStructures.of(["CC(=O)O"]), limit=3).taught(stats))
    assert found == ["CCO", "CCN", "CCC"]
    assert (stats.read, stats.used, stats.unreadable, stats.tested) == (34, 3, 30, 1)
    assert len(stats.shown) == 20
    assert stats.shown[0].row == 2


def test_the_datasets_that_are_here_are_what_may_be_tested_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KFLM2_DATASETS", raising=False)
    found = structures_of_datasets()
    assert "SAMPL" in found.names
    assert found.holds("CN(C)C(=O)c1ccc(cc1)OC")
    assert found.holds("COc1ccc(C(=O)N(C)C)cc1")
    assert not found.holds("COc1ccc(C(=O)N(C)CCCCCCCl)cc1")
    assert structures_of_datasets() == found


def test_a_structure_is_known_however_it_is_written() -> None:
    """The formula, which is looked at first, must not tell apart what the InChIKey does not."""
    pairs = [
        ("C[N+](=O)[O-]", "CN(=O)=O"),
        ("O=c1cccc[nH]1", "Oc1ccccn1"),
        ("[Na+].[Cl-]", "[Na]Cl"),
        ("[2H]OC", "CO[2H]"),
        ("C[NH3+].[Cl-]", "CN.Cl"),
        ("[O-]C=O.[K+]", "O=CO[K]"),
    ]
    for one, other in pairs:
        assert identity(one) == identity(other)
        assert ExcludedStructures.of([one]).holds(other), (one, other)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        path = tmp_path / f"{lines}.smi"
        with path.open("w") as file:
            file.writelines(f"{text}\n" for text in itertools.islice(itertools.cycle(SMILES), lines))
        tracemalloc.start()
        assert sum(1 for _ in CorpusFilter(path).taught()) == lines
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)  # what is imported and cached on first use
    assert peak(20_000) < peak(3_000) + 50_000


def test_about_the_share_is_held_out_and_always_the_same() -> None:
    texts = [f"C{'N' * i}" for i in range(5000)]
    held = [is_held_out(text, 0.02) for text in texts]
    assert 50 < sum(held) < 150
    assert held == [is_held_out(text, 0.02) for text in texts]
    assert not any(is_held_out(text, 0.0) for text in texts)


def test_a_random_writing_is_of_the_same_molecule() -> None:
    smiles = "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O"
    writings = {randomized(smiles, seed) for seed in range(20)}
    assert len(writings) > 10
    assert {Chem.CanonSmiles(text) for text in writings} == {Chem.CanonSmiles(smiles)}
    assert randomized(smiles, 3) == randomized(smiles, 3)


def test_fragments_are_the_small_molecules_that_a_cut_leaves() -> None:
    smiles = "COc1ccc(C(=O)NCC2CCCN2S(C)(=O)=O)cc1Cl"
    found = fragments(smiles)
    assert len(found) > 3
    assert found == fragments(smiles)
    whole = Chem.MolFromSmiles(smiles)
    for text in found:
        mol = Chem.MolFromSmiles(text)
        assert Chem.MolToSmiles(mol) == text
        assert mol.GetNumAtoms() < whole.GetNumAtoms()
        # every bond is closed, by an atom or by hydrogen
        assert not any(atom.GetAtomicNum() == 0 or atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    assert fragments("c1ccccc1") == []


def test_fragments_are_taught_once_beside_their_molecules_and_never_of_those_held_out(tmp_path: Path) -> None:
    own = [f"{'C' * i}NC(=O)c1ccc(OC{'C' * j})cc1" for i in range(1, 7) for j in range(10)]
    (tmp_path / "a.smi").write_text("\n".join(own) + "\n")
    stats = CorpusStats()
    corpus_filter = CorpusFilter(tmp_path / "a.smi", held_out=0.3, fragments=True)
    taught = list(corpus_filter.taught(stats))
    assert taught == list(corpus_filter.taught())
    assert stats.taught == len(taught) == len(set(taught))
    held_out = [text for text in own if is_held_out(text, 0.3)]
    assert stats.held_out == len(held_out) > 5
    assert stats.some_held_out.texts == held_out
    assert sorted(stats.some_taught.texts) == sorted(taught)
    assert stats.used - stats.held_out + stats.fragments == len(taught)
    pieces = {piece for text in own if text not in held_out for piece in fragments(text)}
    assert set(taught) == {text for text in {*own, *pieces} if not is_held_out(text, 0.3)}
    without = next(text for text in taught if text not in own)
    left = list(
        CorpusFilter(tmp_path / "a.smi", ExcludedStructures.of([without]), held_out=0.3, fragments=True).taught()
    )
    assert [text for text in taught if identity(text) != identity(without)] == left


def test_a_molecule_with_an_atom_of_any_kind_has_fragments_all_the_same() -> None:
    assert "*" not in "".join(fragments("CCNC(=O)C*C(=O)NCC"))


def test_a_reservoir_is_a_fair_sample() -> None:
    reservoir, again = Reservoir(800), Reservoir(800)
    for number in range(20_000):
        reservoir.add(str(number))
        again.add(str(number))
    assert reservoir.texts == again.texts
    assert len(set(reservoir.texts)) == 800
    quarters = np.histogram([int(text) for text in reservoir.texts], bins=4, range=(0, 20_000))[0]
    assert (abs(quarters - 200) < 50).all()  # four standard deviations


def test_what_the_llm_cannot_read_at_once_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("CCO\nCCCCCCCC\n")
    stats = CorpusStats()
    assert list(CorpusFilter(tmp_path / "a.smi", longest=7).taught(stats)) == ["CCO"]
    assert [(own.row, own.reason) for own in stats.shown] == [(2, "8 characters; the LLM reads 7 at once")]
