"""SMILES to fine-tune an LLM with: streamed, so that ten million take no more memory than ten thousand."""

import csv
import gzip
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import rdkit
from pyarrow import ArrowException, parquet
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS

from kflm2.data.datasets import DATASETS, locate
from kflm2.data.download import CHEMBL_FILE, MOSES_FILE, ZINC
from kflm2.data.knowledge import SMILES_COLUMNS
from kflm2.data.molecules import Rejection, parse_smiles
from kflm2.data.reading import read_table
from kflm2.data.structures import degree_counts, skeletons
from kflm2.errors import DataError, MoleculeError, SettingError
from kflm2.files import cached_json, project_folder, sha256_texts

SAMPLE = "zinc_sample"
_FILES = {"ZINC": ZINC.path.name, "ChEMBL": CHEMBL_FILE, "MOSES": MOSES_FILE, SAMPLE: "zinc_sample.smi"}
_MOST_SHOWN = 20
_HELD_OUT_SAMPLE = 500
_TRAINING_SAMPLE = 2000
_HASH_TABLE_SIZE = 1 << 24
"""Bytes of the hash table of known fragments, for a corpus of any length; by collision a few new ones are skipped."""
_CUTS, _PIECES = 6, 4
"""Random cuts that are tried of a molecule, and pieces that are kept."""
_CAPS = {"C": (1, 1, 6, 6, 7, 8, 8, 9, 17, 17, 35), "": (1, 6)}
"""Atomic numbers that close an open bond, common ones twice: on a carbon, and on any other atom."""


@dataclass(frozen=True)
class Corpus:
    """A file of SMILES."""

    name: str
    path: Path


_ENDING = re.compile(r"(\.(smi|smiles|txt|csv|tsv|parquet|pq))?(\.gz)?$", re.IGNORECASE)


def find_corpus(name: str) -> Corpus:
    """The corpus with a name: `auto` (ZINC or ChEMBL if downloaded, else the sample), one of these names, or a file.

    Raises:
        SettingError: neither a known name nor a file.
        DataError: the corpus has not been downloaded.
    """
    folder = project_folder() / "dataset"
    if name == "auto":
        name = next((corpus for corpus in ("ZINC", "ChEMBL") if (folder / _FILES[corpus]).is_file()), SAMPLE)
    if name in _FILES:
        path = folder / _FILES[name]
        if not path.is_file():
            hint = "it is part of the repository" if name == SAMPLE else f"`kflm2 datasets get {name}` brings it"
            raise DataError(f"corpus {name}: no file {path}; {hint}, or name any file of SMILES with --corpus")
        return Corpus(name, path)
    path = Path(name)
    if path.is_file():
        return Corpus(_ENDING.sub("", path.name) or path.name, path)
    raise SettingError(
        f"unknown corpus {name!r}; choose auto, one of {', '.join(_FILES)}, or a .smi, .csv or .parquet file"
    )


def stream(path: Path) -> Iterator[str]:
    """SMILES of a file, unchanged, one after another; the file may be gzipped.

    A .parquet, .csv or .tsv has a column smiles (or SMILES, canonical_smiles) by its header; in any other file the
    first word of each line is the SMILES.

    Raises:
        DataError: no such column, or the file is damaged.
    """
    gzipped = path.suffix.lower() == ".gz"
    suffix = (Path(path.stem).suffix if gzipped else path.suffix).lower()
    if suffix in (".parquet", ".pq"):
        yield from _parquet_smiles(path)
        return
    try:
        with _open(path, gzipped) as lines:
            if suffix not in (".csv", ".tsv"):
                yield from (fields[0] for line in lines if (fields := line.split()))
                return
            rows = csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ",")
            header = [name.strip() for name in next(rows, [])]
            column = next((header.index(name) for name in SMILES_COLUMNS if name in header), None)
            if column is None:
                raise DataError(f"corpus {path}: no column {' or '.join(SMILES_COLUMNS)}; it has: {', '.join(header)}")
            yield from (row[column].strip() for row in rows if len(row) > column)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"corpus {path} cannot be read: {error}") from None


def _parquet_smiles(path: Path) -> Iterator[str]:
    try:
        file = parquet.ParquetFile(path)
        column = next((name for name in SMILES_COLUMNS if name in file.schema_arrow.names), None)
        if column is None:
            raise DataError(f"corpus {path}: no column {' or '.join(SMILES_COLUMNS)}")
        for batch in file.iter_batches(columns=[column]):
            yield from (str(text).strip() for text in batch.column(0).to_pylist())
    except (OSError, ArrowException) as error:
        raise DataError(f"corpus {path} cannot be read: {error}") from None


def _open(path: Path, gzipped: bool) -> IO[str]:
    if gzipped:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


@dataclass
class CorpusStats:
    """Counts and samples of one pass over a corpus."""

    read: int = 0
    used: int = 0
    unreadable: int = 0
    shown: list[Rejection] = field(default_factory=list)
    """The first unreadable ones."""
    excluded: int = 0
    """Molecules left out because a dataset of stage 2 contains them."""
    fragments: int = 0
    """Fragments added to the training SMILES."""
    training: int = 0
    """SMILES to train on in an epoch, fragments included."""
    held_out: int = 0
    """Molecules held out of training for the evaluation."""
    training_sample: "ReservoirSample" = field(default_factory=lambda: ReservoirSample(_TRAINING_SAMPLE))
    held_out_sample: "ReservoirSample" = field(default_factory=lambda: ReservoirSample(_HELD_OUT_SAMPLE))


class ReservoirSample:
    """A uniform random sample of the texts of a stream; the same for the same stream."""

    def __init__(self, size: int) -> None:
        self.size, self.seen, self.texts = size, 0, list[str]()
        self._rng = random.Random(0)

    def add(self, text: str) -> None:
        """Add the next text of the stream, or skip it at random."""
        self.seen += 1
        if len(self.texts) < self.size:
            self.texts.append(text)
        elif (index := self._rng.randrange(self.seen)) < self.size:
            self.texts[index] = text


@dataclass(frozen=True)
class ExcludedStructures:
    """Structures that may be in a test part, and the datasets that contain them."""

    skeletons: frozenset[str] = frozenset()
    """See skeletons."""
    degrees: frozenset[str] = frozenset()
    """See degree_counts; checked first, since they take less time."""
    names: tuple[str, ...] = ()

    @staticmethod
    def of(smiles: Iterable[str], names: tuple[str, ...] = ()) -> "ExcludedStructures":
        """The structures of valid SMILES."""
        texts = list(smiles)
        return ExcludedStructures(
            frozenset(key for text in texts for key in skeletons(text)),
            frozenset(counts for text in texts for counts in degree_counts(text)),
            names,
        )

    def contains(self, smiles: str) -> bool:
        """Whether a valid SMILES has an organic component with the skeleton of one of them."""
        if not self.skeletons or self.degrees.isdisjoint(degree_counts(smiles)):
            return False
        return not self.skeletons.isdisjoint(skeletons(smiles))


@dataclass(frozen=True)
class CorpusFilter:
    """Which SMILES of a corpus an LLM is fine-tuned on."""

    path: Path
    exclude: ExcludedStructures = ExcludedStructures()
    """Structures to leave out."""
    limit: int | None = None
    """Maximum number of molecules to use; None for all."""
    held_out: float = 0.0
    """Share of them that is held out of training."""
    fragments: bool = False
    """Train on the fragments of the training molecules too, each once."""
    small: int = 0
    """Train on small pieces of them too, of at most so many heavy atoms; see small_pieces. 0 for none."""
    longest: int | None = None
    """Maximum characters of a SMILES, by the LLM's context; None for no limit."""

    def training_smiles(self, stats: CorpusStats | None = None) -> Iterator[str]:
        """SMILES to train on, in the corpus' order; the same in every pass.

        Args:
            stats: updated with the counts and samples of this pass.
        """
        stats = stats if stats is not None else CorpusStats()
        known = bytearray(_HASH_TABLE_SIZE if self.fragments or self.small else 0)
        for smiles in self._usable(stats):
            if is_held_out(smiles, self.held_out):
                stats.held_out += 1
                stats.held_out_sample.add(smiles)
                continue
            stats.training += 1
            stats.training_sample.add(smiles)
            yield smiles
            for fragment in self._derived(smiles):
                index = zlib.crc32(fragment.encode()) % _HASH_TABLE_SIZE
                if known[index]:
                    continue
                known[index] = True
                if is_held_out(fragment, self.held_out) or self.exclude.contains(fragment):
                    continue
                stats.fragments += 1
                stats.training += 1
                stats.training_sample.add(fragment)
                yield fragment

    def _derived(self, smiles: str) -> Iterator[str]:
        """Smaller molecules that are made of one."""
        yield from fragments(smiles) if self.fragments else ()
        yield from small_pieces(smiles, self.small) if self.small else ()

    def _usable(self, stats: CorpusStats) -> Iterator[str]:
        """SMILES that RDKit can read and that no dataset of stage 2 contains."""
        for text in stream(self.path):
            stats.read += 1
            try:
                parse_smiles(text)
                if self.longest is not None and len(text) > self.longest:
                    raise MoleculeError(f"{len(text)} characters; the LLM reads {self.longest} at once")
            except MoleculeError as error:
                stats.unreadable += 1
                if len(stats.shown) < _MOST_SHOWN:
                    stats.shown.append(Rejection(stats.read, text, str(error)))
                continue
            if self.exclude.contains(text):
                stats.excluded += 1
                continue
            stats.used += 1
            yield text
            if stats.used == self.limit:
                return


def fragments(smiles: str) -> list[str]:
    """Fragments of a molecule, cut at its BRICS bonds, as small molecules (canonical SMILES).

    A cut leaves open bonds, which are closed by hydrogen, methyl, a halogen and the like, chosen at random but always
    the same for the same molecule, so that the small molecules are diverse. A molecule that is not cut has none.

    BRICS: Degen et al., ChemMedChem 2008, 3, 1503.
    """
    pieces = sorted(BRICS.BRICSDecompose(parse_smiles(smiles)))
    capped = (_cap(piece, smiles) for piece in pieces) if len(pieces) > 1 else ()
    return list(dict.fromkeys(fragment for fragment in capped if fragment is not None))


def small_pieces(smiles: str, most: int) -> list[str]:
    """Small molecules (canonical SMILES) that one or two cuts at single bonds outside rings leave of a molecule.

    Open bonds are closed as those of fragments are. BRICS cuts few kinds of bonds, so that amines, alcohols and
    halides of few atoms are rare among its fragments.

    Args:
        smiles: valid.
        most: heavy atoms of a piece.

    Returns:
        At most four, chosen at random, but always the same for the same molecule.
    """
    mol, rng = parse_smiles(smiles), random.Random(smiles)
    bonds = [
        bond.GetIdx() for bond in mol.GetBonds() if not bond.IsInRing() and bond.GetBondType() == Chem.BondType.SINGLE
    ]
    pieces: dict[str, None] = {}
    for _ in range(_CUTS if bonds else 0):
        cut = Chem.FragmentOnBonds(mol, sorted(rng.sample(bonds, min(rng.choice((1, 2)), len(bonds)))))
        for part in Chem.GetMolFrags(cut, asMols=True):
            if sum(atom.GetAtomicNum() > 1 for atom in part.GetAtoms()) <= most:
                capped = _cap(Chem.MolToSmiles(part), smiles)
                if capped is not None and parse_smiles(capped).GetNumAtoms() <= most:
                    pieces[capped] = None
    return list(pieces)[:_PIECES]


def _cap(piece: str, smiles: str) -> str | None:
    """A piece of a molecule with its open bonds closed; None where that gives no valid molecule."""
    rng = random.Random(f"{piece} {smiles}")
    mol = Chem.RWMol(Chem.MolFromSmiles(piece))
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == 0:
            if atom.GetDegree() != 1:  # a dummy atom of the molecule itself
                return None
            (bond,) = atom.GetBonds()
            neighbour = bond.GetOtherAtom(atom).GetSymbol()
            atom.SetAtomicNum(rng.choice(_CAPS.get(neighbour, _CAPS[""])))
            atom.SetIsotope(0)
            atom.SetNoImplicit(False)  # a dummy atom has no implicit hydrogens
    with rdBase.BlockLogs():
        try:
            return str(Chem.MolToSmiles(Chem.RemoveHs(mol.GetMol())))
        except Chem.MolSanitizeException:
            return None


def structures_of_datasets() -> ExcludedStructures:
    """Structures of all available datasets, any of which may be in a test part."""
    found: dict[str, set[str]] = {"skeletons": set(), "degrees": set()}
    names = []
    for name in DATASETS:
        dataset, missing = locate(name)
        if missing:
            continue
        smiles = read_table(dataset).smiles
        key: dict[str, object] = {"smiles": sha256_texts(smiles), "holds": sorted(found), "rdkit": rdkit.__version__}
        entry = cached_json("skeletons", key, _structures(smiles))
        for kind, texts in found.items():
            texts.update(entry[kind])
        names.append(name)
    return ExcludedStructures(frozenset(found["skeletons"]), frozenset(found["degrees"]), tuple(names))


def _structures(smiles: list[str]) -> Callable[[], dict[str, list[str]]]:
    def compute() -> dict[str, list[str]]:
        excluded = ExcludedStructures.of(smiles)
        return {"skeletons": sorted(excluded.skeletons), "degrees": sorted(excluded.degrees)}

    return compute


def is_held_out(smiles: str, share: float) -> bool:
    """Whether a molecule belongs to the share that is held out of training; depends on the SMILES only."""
    return zlib.crc32(smiles.encode()) / 2**32 < share


def randomized(smiles: str, seed: int) -> str:
    """A random SMILES of the same molecule as a valid SMILES: atoms in random order."""
    (text,) = Chem.MolToRandomSmilesVect(parse_smiles(smiles), 1, randomSeed=seed + 1)
    return str(text)
