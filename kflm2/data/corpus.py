"""SMILES to teach an LLM with: read as a stream, so that ten million take no more memory than ten thousand."""

import csv
import gzip
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rdkit import Chem, rdBase
from rdkit.Chem import BRICS
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from kflm2.data.datasets import DATASETS, locate
from kflm2.data.download import CHEMBL_FILE, MOSES_FILE, ZINC
from kflm2.data.molecules import Rejection, parse_smiles, read_table
from kflm2.data.structures import identity
from kflm2.errors import DataError, MoleculeError, SettingError
from kflm2.files import keep_json, project_folder, sha256_texts

SAMPLE = "zinc_sample"
_FILES = {"ZINC": ZINC.path.name, "ChEMBL": CHEMBL_FILE, "MOSES": MOSES_FILE, SAMPLE: "zinc_sample.smi"}
_MOST_SHOWN = 20
_COLUMNS = ("smiles", "SMILES", "Smiles", "canonical_smiles")
_SOME_HELD_OUT = 500
_SOME_TAUGHT = 2000
_MEMORY = 1 << 24
"""Bytes in which fragments are remembered, however long the corpus is; a few that are new are then taken for known."""
_ENDS = {"C": (1, 1, 6, 6, 7, 8, 8, 9, 17, 17, 35), "": (1, 6)}
"""Atomic numbers that close an open bond, the usual ones twice: of a carbon, and of any other atom."""


@dataclass(frozen=True)
class Corpus:
    """A file of SMILES."""

    name: str
    path: Path


def find_corpus(name: str) -> Corpus:
    """The corpus of a name: `auto` (ZINC or ChEMBL where one was downloaded, else the sample), one of them, or a file.

    Raises:
        SettingError: neither a name nor a file.
        DataError: its file is not here.
    """
    folder = project_folder() / "dataset"
    if name == "auto":
        name = next((own for own in ("ZINC", "ChEMBL") if (folder / _FILES[own]).is_file()), SAMPLE)
    if name in _FILES:
        path = folder / _FILES[name]
        if not path.is_file():
            raise DataError(f"corpus {name}: no file {path}; `kflm2 datasets get {name}` brings it")
        return Corpus(name, path)
    path = Path(name)
    if path.is_file():
        return Corpus(path.name.split(".")[0], path)
    raise SettingError(f"unknown corpus {name!r}; choose auto, one of {', '.join(_FILES)}, or a .smi or .csv file")


def stream(path: Path) -> Iterator[str]:
    """SMILES of a file as they are written, one after another, packed or not.

    A .csv or .tsv has a header with a column smiles (or SMILES, canonical_smiles); of any other file the first word of
    each line is taken.

    Raises:
        DataError: no such column, or the file is damaged.
    """
    packed = path.suffix == ".gz"
    kind = Path(path.stem).suffix if packed else path.suffix
    try:
        with _opened(path, packed) as lines:
            if kind not in (".csv", ".tsv"):
                yield from (words[0] for line in lines if (words := line.split()))
                return
            rows = csv.reader(lines, delimiter="\t" if kind == ".tsv" else ",")
            header = next(rows, [])
            column = next((header.index(name) for name in _COLUMNS if name in header), None)
            if column is None:
                raise DataError(f"corpus {path}: no column {' or '.join(_COLUMNS)}; it has: {', '.join(header)}")
            yield from (row[column].strip() for row in rows if len(row) > column)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"corpus {path} cannot be read: {error}") from None


def _opened(path: Path, packed: bool) -> IO[str]:
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


@dataclass
class CorpusStats:
    """What a pass over a corpus found."""

    read: int = 0
    used: int = 0
    unreadable: int = 0
    shown: list[Rejection] = field(default_factory=list)
    """The first unreadable ones."""
    tested: int = 0
    """Molecules left out because a dataset of stage 2 has them."""
    fragments: int = 0
    """Fragments taught beside them."""
    taught: int = 0
    """SMILES to be taught in an epoch, fragments included."""
    held_out: int = 0
    """Molecules that are not taught, so that they can be judged on."""
    some_taught: "Reservoir" = field(default_factory=lambda: Reservoir(_SOME_TAUGHT))
    some_held_out: "Reservoir" = field(default_factory=lambda: Reservoir(_SOME_HELD_OUT))


class Reservoir:
    """Some of the texts of a stream, each as likely as any other to be among them; the same for the same stream."""

    def __init__(self, size: int) -> None:
        self.size, self.seen, self.texts = size, 0, list[str]()
        self._chance = random.Random(0)

    def add(self, text: str) -> None:
        """Offer the next one."""
        self.seen += 1
        if len(self.texts) < self.size:
            self.texts.append(text)
        elif (place := self._chance.randrange(self.seen)) < self.size:
            self.texts[place] = text


@dataclass(frozen=True)
class ExcludedStructures:
    """Structures that may be tested on, and the datasets that hold them."""

    structures: frozenset[str] = frozenset()
    """InChIKeys."""
    formulas: frozenset[str] = frozenset()
    """Of these; a structure's is computed a hundred times as fast as its InChIKey."""
    names: tuple[str, ...] = ()

    @staticmethod
    def of(smiles: Iterable[str], names: tuple[str, ...] = ()) -> "ExcludedStructures":
        """Structures of SMILES."""
        texts = list(smiles)
        return ExcludedStructures(frozenset(map(identity, texts)), frozenset(map(_formula, texts)), names)

    def holds(self, smiles: str) -> bool:
        """Whether a valid SMILES is of one of the structures, however it is written."""
        return bool(self.structures) and _formula(smiles) in self.formulas and identity(smiles) in self.structures


def _formula(smiles: str) -> str:
    return str(CalcMolFormula(parse_smiles(smiles)))


@dataclass(frozen=True)
class CorpusFilter:
    """Which SMILES of a corpus are taught."""

    path: Path
    exclude: ExcludedStructures = ExcludedStructures()
    """Structures to leave out."""
    limit: int | None = None
    """Use so many molecules."""
    held_out: float = 0.0
    """Share of them that is not taught."""
    fragments: bool = False
    """Teach the fragments of what is taught too, each once."""
    longest: int | None = None
    """Characters that the LLM can read at once."""

    def taught(self, stats: CorpusStats | None = None) -> Iterator[str]:
        """SMILES to teach, in the corpus' order; the same whenever they are asked for.

        Args:
            stats: counts what was seen.
        """
        stats = stats if stats is not None else CorpusStats()
        known = bytearray(_MEMORY if self.fragments else 0)
        for smiles in self._usable(stats):
            if is_held_out(smiles, self.held_out):
                stats.held_out += 1
                stats.some_held_out.add(smiles)
                continue
            stats.taught += 1
            stats.some_taught.add(smiles)
            yield smiles
            for own in fragments(smiles) if self.fragments else ():
                place = zlib.crc32(own.encode()) % _MEMORY
                if known[place]:
                    continue
                known[place] = True
                if is_held_out(own, self.held_out) or self.exclude.holds(own):
                    continue
                stats.fragments += 1
                stats.taught += 1
                stats.some_taught.add(own)
                yield own

    def _usable(self, stats: CorpusStats) -> Iterator[str]:
        """SMILES that RDKit can read and no dataset of stage 2 holds."""
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
            if self.exclude.holds(text):
                stats.tested += 1
                continue
            stats.used += 1
            yield text
            if stats.used == self.limit:
                return


def fragments(smiles: str) -> list[str]:
    """The pieces into which the bonds that BRICS knows cut a molecule, as small molecules (canonical SMILES).

    A cut leaves open bonds; hydrogen, methyl, a halogen and the like close them, drawn by chance but always alike for
    the same molecule, so that small molecules of many kinds arise. A molecule that is not cut has none.

    BRICS: Degen et al., ChemMedChem 2008, 3, 1503.
    """
    pieces = sorted(BRICS.BRICSDecompose(parse_smiles(smiles)))
    closed = (_closed(text, smiles) for text in pieces) if len(pieces) > 1 else ()
    return list(dict.fromkeys(own for own in closed if own is not None))


def _closed(piece: str, smiles: str) -> str | None:
    """A piece of a molecule with its open bonds closed; None where that makes no molecule."""
    chance = random.Random(f"{piece} {smiles}")
    mol = Chem.RWMol(Chem.MolFromSmiles(piece))
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == 0:
            if atom.GetDegree() != 1:  # one that the molecule itself had
                return None
            (bond,) = atom.GetBonds()
            other = bond.GetOtherAtom(atom).GetSymbol()
            atom.SetAtomicNum(chance.choice(_ENDS.get(other, _ENDS[""])))
            atom.SetIsotope(0)
            atom.SetNoImplicit(False)  # the hydrogens that a dummy lacks
    with rdBase.BlockLogs():
        try:
            return str(Chem.MolToSmiles(Chem.RemoveHs(mol.GetMol())))
        except Chem.MolSanitizeException:
            return None


def structures_of_datasets() -> ExcludedStructures:
    """Structures of all datasets that are here, any of which may be tested on."""
    structures: set[str] = set()
    formulas: set[str] = set()
    names = []
    for name in DATASETS:
        dataset, missing = locate(name)
        if missing:
            continue
        smiles = read_table(dataset).smiles
        parts: dict[str, object] = {"smiles": sha256_texts(smiles), "holds": ["structures", "formulas"]}
        found = keep_json("structures", parts, _structures(smiles))
        structures |= set(found["structures"])
        formulas |= set(found["formulas"])
        names.append(name)
    return ExcludedStructures(frozenset(structures), frozenset(formulas), tuple(names))


def _structures(smiles: list[str]) -> Callable[[], dict[str, list[str]]]:
    def compute() -> dict[str, list[str]]:
        own = ExcludedStructures.of(smiles)
        return {"structures": sorted(own.structures), "formulas": sorted(own.formulas)}

    return compute


def is_held_out(smiles: str, share: float) -> bool:
    """Whether a molecule belongs to the share that is not taught; the same answer whenever it is asked."""
    return zlib.crc32(smiles.encode()) / 2**32 < share


def randomized(smiles: str, seed: int) -> str:
    """Another way to write a valid SMILES: atoms in random order."""
    (text,) = Chem.MolToRandomSmilesVect(parse_smiles(smiles), 1, randomSeed=seed + 1)
    return str(text)
