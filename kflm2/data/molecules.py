"""The molecules of a table, and the checks that every SMILES from outside passes."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from kflm2.data.covariates import Covariate
from kflm2.data.datasets import Dataset
from kflm2.errors import DataError, MoleculeError

# What is read at most, so that every later step ends in seconds and in little memory. The largest values in the eleven
# datasets are, in this order: 1,340 characters, 492 atoms, 10 neighbours, 6 hydrogens, a charge of 5, 48 rings.
MAX_SMILES_LENGTH = 5000
MAX_ATOMS = 600
"""Atoms of a molecule without hydrogens. Descriptors of 600 take 3 seconds, and those of 5,000 half an hour."""
MAX_NEIGHBOURS = 32
MAX_HYDROGENS = 32
MAX_CHARGE = 15
MAX_RINGS = 150
"""Independent rings. RDKit's ring search takes less than a second on 150, seconds to hours on more."""
# Any: in RDKit's stubs its fields have the type of the whole
_REMOVE_HYDROGENS: Any = Chem.RemoveHsParameters()
_REMOVE_HYDROGENS.removeDefiningBondStereo = True
_REMOVE_HYDROGENS.showWarnings = False
_MOL_END = re.compile(r"^M  END", re.MULTILINE)


@dataclass(frozen=True)
class Rejection:
    """A row that is not used, and the reason.

    Rows are numbered from 1, the first after the header, and consecutively over the files of a dataset.
    """

    row: int
    smiles: str
    reason: str


@dataclass(frozen=True)
class Molecules:
    """The n usable rows of a table, in file order, and the rejected ones."""

    dataset: Dataset
    sha256: str
    """Digest of the file's bytes (for several files, of their digests)."""
    read: int
    """Rows read; always n + len(rejected)."""
    rows: np.ndarray
    """(n,) row number of each molecule in the file, from 1."""
    smiles: list[str]
    """(n,) SMILES; as in the file without outer blanks, until they are standardized."""
    y_true: np.ndarray
    """(n, K) float64 targets in the dataset's unit, NaN where the label is missing."""
    parts: list[str] | None
    """(n,) train, valid, test or test_NAME, from the split column or the dataset; None if neither gives parts."""
    rejected: tuple[Rejection, ...]
    missing: int
    """Missing labels in the rows read."""
    padded: int
    """SMILES with blanks around them in the rows read."""
    bounds: np.ndarray | None = None
    """(2, n, K) float64 that the true value is not below, and not above, where only that is known, else NaN; None where
    no label is such a bound."""
    weights: np.ndarray | None = None
    """(n,) float64 weights in training; None for 1."""
    notes: tuple[str, ...] = ()
    """For the user: what was read otherwise than it stands in the table."""
    covariates: np.ndarray | None = None
    """(n, C) float64 values of the columns that are read beside the structure, see Covariate.value; None for none."""
    covariate_columns: tuple[Covariate, ...] = ()
    """(C,)"""

    @property
    def y_learnt(self) -> np.ndarray:
        """(n, K) labels that may be learnt from: y_true, NaN where a molecule's weight is 0."""
        return self.y_true if self.weights is None else np.where(self.weights[:, None] > 0, self.y_true, np.nan)

    def counted(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that decide something: all but those of weight 0."""
        return rows if self.weights is None else rows[self.weights[rows] > 0]

    def without_bounds(self) -> "Molecules":
        """The same without what is known of bounds; a molecule that has no other label is rejected."""
        unknown = np.flatnonzero(np.isnan(self.y_true).all(axis=1))
        return replace(self, bounds=None).reject({int(i): "only a bound is known" for i in unknown})

    def take(self, keep: Sequence[int], rejected: Sequence[Rejection] = ()) -> "Molecules":
        """The molecules of some indices, ascending; all others must be in rejected, so that every row is counted.

        Raises:
            DataError: no molecule is left.
        """
        all_rejected = tuple(sorted([*self.rejected, *rejected], key=lambda rejection: rejection.row))
        if not len(keep):
            raise DataError(none_left(self.dataset.path, all_rejected))
        assert len(keep) + len(all_rejected) == self.read
        return replace(
            self,
            rows=self.rows[list(keep)],
            smiles=[self.smiles[i] for i in keep],
            y_true=self.y_true[list(keep)],
            parts=[self.parts[i] for i in keep] if self.parts is not None else None,
            rejected=all_rejected,
            bounds=None if self.bounds is None else self.bounds[:, list(keep)],
            weights=None if self.weights is None else self.weights[list(keep)],
            covariates=None if self.covariates is None else self.covariates[list(keep)],
        )

    def reject(self, reasons: dict[int, str]) -> "Molecules":
        """The same table without the molecules in reasons: index into smiles -> reason."""
        keep = [i for i in range(len(self.smiles)) if i not in reasons]
        rejected = [Rejection(int(self.rows[i]), self.smiles[i], reason) for i, reason in reasons.items()]
        return self.take(keep, rejected)


def elements_of(mol: Chem.Mol) -> frozenset[int]:
    """Atomic numbers of a molecule, 0 for an attachment point; hydrogen, which all have, is not counted."""
    return frozenset(number for atom in mol.GetAtoms() if (number := atom.GetAtomicNum()) != 1)


def without_map_numbers(mol: Chem.Mol) -> Chem.Mol:
    """The molecule without atom map numbers, which would change the order of its atoms; it is changed in place."""
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    return mol


def parse_smiles(smiles: str, max_atoms: int = MAX_ATOMS) -> Chem.Mol:
    """RDKit's molecule of a SMILES; every SMILES from outside passes here, and its molecule is safe to work with.

    Args:
        smiles: without outer blanks.
        max_atoms: atoms without hydrogens that are allowed.

    Raises:
        MoleculeError: it is empty, too large, or RDKit cannot read it; the message, one line, is the reason.
    """
    if not smiles:
        raise MoleculeError("no SMILES")
    if len(smiles) > MAX_SMILES_LENGTH:
        raise MoleculeError(f"too large: {len(smiles)} characters; {MAX_SMILES_LENGTH} are read at most")
    if not smiles.isascii() or "\0" in smiles:
        raise MoleculeError("a character that SMILES do not have")  # RDKit would ignore it
    if len(smiles.split()) > 1:
        # RDKit would read the second field as a name, but the LLM would read it as SMILES
        raise MoleculeError("a blank inside the SMILES")
    with rdkit_errors("read it"):
        # a ring is closed by two numbers: with fewer digits the ring search is safe, else rings are counted before it
        if sum(map(str.isdigit, smiles)) > 2 * MAX_RINGS:
            _check_rings(Chem.MolFromSmiles(smiles, sanitize=False))
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise MoleculeError(f"RDKit cannot read it: {_problem(smiles)}")
        if "[H" in smiles:
            # RDKit keeps the hydrogen of [H]/N=C, and other writings of the same molecule have none
            mol = Chem.RemoveHs(mol, _REMOVE_HYDROGENS)
        _check_size(mol, max_atoms)
        if "[" in smiles or "*" in smiles:  # RDKit itself limits all other atoms by their valence
            _check_atoms(mol)
    return mol


def smiles_of_block(block: str) -> str:
    """RDKit's SMILES of a molecule of an SDF; it may still be refused by parse_smiles.

    Raises:
        MoleculeError: it is too large, or RDKit cannot read it.
    """
    if len(_MOL_END.findall(block)) > 1:
        raise MoleculeError("two molecules in one SDF block; a line $$$$ is missing")  # RDKit would read the first only
    with rdkit_errors("read the SDF block"):
        plain = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
        if plain is not None and (atoms := plain.GetNumAtoms()) > MAX_SMILES_LENGTH:
            raise MoleculeError(f"too large: {atoms} atoms and hydrogens; {MAX_SMILES_LENGTH} are read at most")
        _check_rings(plain)
        mol = Chem.MolFromMolBlock(block)
        if mol is None:
            raise MoleculeError("RDKit cannot read the SDF block")
        return str(Chem.MolToSmiles(mol))


@contextlib.contextmanager
def rdkit_errors(what: str) -> Iterator[None]:
    """Turn whatever RDKit raises into a MoleculeError of one line, and keep RDKit's log off stderr.

    Args:
        what: RDKit cannot do, such as `read it`.
    """
    with rdBase.BlockLogs():
        try:
            yield
        except MoleculeError:
            raise
        # C++ exceptions arrive as several types: ValueError, RuntimeError (invariant violations), TypeError, KeyError
        except Exception as error:
            lines = (line.strip() for line in str(error).splitlines())
            reason = next((line for line in lines if line.strip("*")), type(error).__name__)
            raise MoleculeError(f"RDKit cannot {what}: {reason}") from None


def _check_rings(mol: Chem.Mol | None) -> None:
    """Refuse more independent rings than MAX_RINGS, in a molecule that need not be sanitized."""
    if mol is not None:
        rings = mol.GetNumBonds() - mol.GetNumAtoms() + len(Chem.GetMolFrags(mol))
        if rings > MAX_RINGS:
            raise MoleculeError(f"too large: {rings} rings; {MAX_RINGS} are read at most")


def _check_size(mol: Chem.Mol, max_atoms: int) -> None:
    """Refuse a molecule without atoms, or with more of them than are allowed."""
    if (atoms := mol.GetNumAtoms()) == 0:
        raise MoleculeError("no atoms")
    if atoms > max_atoms:
        raise MoleculeError(f"too large: {atoms} atoms; {max_atoms} are read at most")


def _check_atoms(mol: Chem.Mol) -> None:
    """Refuse an atom with more neighbours, hydrogens or charges than are allowed."""
    for atom in mol.GetAtoms():
        if (neighbours := atom.GetDegree()) > MAX_NEIGHBOURS:
            raise MoleculeError(f"an atom with {neighbours} neighbours; {MAX_NEIGHBOURS} are read at most")
        if (hydrogens := atom.GetTotalNumHs()) > MAX_HYDROGENS:
            raise MoleculeError(f"an atom with {hydrogens} hydrogens; {MAX_HYDROGENS} are read at most")
        if abs(charge := atom.GetFormalCharge()) > MAX_CHARGE:
            raise MoleculeError(f"an atom of charge {charge:+d}; {-MAX_CHARGE} to +{MAX_CHARGE} are read")


def _problem(smiles: str) -> str:
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        return "not a SMILES"
    problems = Chem.DetectChemistryProblems(mol)
    return problems[0].Message() if problems else "it cannot be sanitized"


def none_left(path: Path, rejected: tuple[Rejection, ...]) -> str:
    """The message where no row is left."""
    first = rejected[0]
    return f"{path}: none of {len(rejected)} rows is a valid molecule; row {first.row} {first.smiles!r}: {first.reason}"
