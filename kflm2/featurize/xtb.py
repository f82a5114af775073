"""Quantum chemistry of a molecule by GFN2-xTB: solvation free energies, orbitals, dipole, charges, surface.

One conformer by ETKDG and a force field, and at this geometry one calculation in the gas phase and one in each implicit
solvent (ALPB). The geometry is not relaxed further: a calculation takes milliseconds, and a relaxation a hundred times
that. The atoms are put into canonical order first, so that all SMILES of a molecule give the same numbers.

GFN2-xTB: Bannwarth et al., J. Chem. Theory Comput. 2019, 15, 1652. ALPB: Ehlert et al., ibid. 2021, 17, 4250. ETKDG:
Wang et al., J. Chem. Inf. Model. 2020, 60, 2044.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rdkit
from joblib import Parallel, cpu_count, delayed
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdFreeSASA, rdMolDescriptors
from threadpoolctl import threadpool_limits

from kflm2.data.molecules import MAX_SMILES_LENGTH, parse_smiles, without_map_numbers
from kflm2.errors import SettingError
from kflm2.featurize.cache import FeatureCache
from kflm2.featurize.ragged import Ragged
from kflm2.progress import Progress

XTB_COLUMNS: dict[str, str] = {
    "xtb_dG_water": "kcal/mol",
    "xtb_dG_octanol": "kcal/mol",
    "xtb_dG_hexane": "kcal/mol",
    "xtb_logP_octanol": "log units",
    "xtb_logP_hexane": "log units",
    "xtb_dipole": "Debye",
    "xtb_dipole_water": "Debye",
    "xtb_HOMO": "eV",
    "xtb_LUMO": "eV",
    "xtb_gap": "eV",
    "xtb_max_charge_H": "e",
    "xtb_max_charge": "e",
    "xtb_min_charge": "e",
    "xtb_sum_abs_charge": "e",
    "xtb_SASA": "Angstrom^2",
    "xtb_PNSA3": "e Angstrom^2",
    "xtb_PPSA3": "e Angstrom^2",
    "xtb_radius_of_gyration": "Angstrom",
}
"""Column -> unit. dG are solvation free energies at the geometry in the gas phase, and logP what their differences give
for the partition between a solvent and water at 298 K; charges are Mulliken's in the gas phase, of hydrogens, and of
all other atoms; SASA is the surface that a solvent reaches, and PNSA3 and PPSA3 are the sums of charge times surface
over negative and positive atoms (Stanton and Jurs, Anal. Chem. 1990, 62, 2323)."""
FAILURES = (
    "",
    "several components",
    "too many atoms",
    "radical",
    "element",
    "no conformer",
    "no force field",
    "not converged",
)
"""Why a molecule has no values; a row of the cache holds the index."""
MOST_ATOMS = 200
"""Hydrogens included; the time grows with the third power of the atoms: half a second for 70, ten for 200."""
HEAVIEST = 86
"""Largest atomic number that GFN2-xTB has parameters for."""
VERSION = 1
"""Increase it when the meaning of the values changes, so that older ones in the cache are not read."""
_SOLVENTS = ("water", "octanol", "hexane")
_SEED = 20
_EMBEDDING_SECONDS = 30
_STEPS = 500
"""Of the force field, at most."""
_BOHR = 0.529177210903
"""Angstrom."""
_KCAL = 627.509474
"""kcal/mol in a Hartree."""
_LOG_UNIT = 1.364
"""kcal/mol that a factor of ten between two concentrations is at 298 K: RT ln 10."""
_EV = 27.211386
_DEBYE = 2.541746
"""Debye in an atomic unit of dipole moment."""
_GROUP = 16
_GROUPS_IN_FILE = 16
_WORTH_PROCESSES = 32
"""From this number of molecules on, several processes are faster than one."""


@dataclass(frozen=True)
class XTBResult:
    """What GFN2-xTB says of one molecule."""

    values: np.ndarray
    """(P,) float32 in the order of XTB_COLUMNS; NaN where it failed, or where the molecule has none."""
    failure: str
    """One of FAILURES."""


def is_installed() -> bool:
    """Whether the package that computes it is there."""
    return importlib.util.find_spec("tblite") is not None


def require() -> None:
    """Refuse to go on without the package.

    Raises:
        SettingError: tblite is not installed.
    """
    if not is_installed():
        raise SettingError('xTB needs the package tblite: pip install "kflm2[physics]" -c constraints.txt')


def compute_xtb(smiles: Sequence[str], progress: bool = True) -> tuple[np.ndarray, list[str]]:
    """Values of XTB_COLUMNS of valid SMILES, read from the cache or computed, with a progress bar.

    Args:
        smiles: n SMILES.
        progress: show the bar.

    Returns:
        (n, P) float32, NaN where a molecule failed; n reasons, empty where it did not.

    Raises:
        SettingError: tblite is not installed.
        MoleculeError: RDKit cannot read a SMILES.
    """
    require()
    cache = FeatureCache("xtb", versions())

    def compute(missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        with Progress(total=len(missing), desc="xTB", unit="mol", disable=not progress) as bar:
            done: list[tuple[list[str], np.ndarray]] = []
            for group, rows in xtb_groups(missing):
                bar.update(len(group))
                done.append((group, rows))
                # a file of the cache holds several groups
                if len(done) == _GROUPS_IN_FILE:
                    yield _joined(done)
                    done = []
            if done:
                yield _joined(done)

    return _split(cache.get(list(smiles), compute).values)


def _joined(groups: list[tuple[list[str], np.ndarray]]) -> tuple[list[str], Ragged]:
    texts = [text for group, _ in groups for text in group]
    return texts, Ragged(np.concatenate([rows for _, rows in groups]), np.arange(len(texts) + 1))


def compute_uncached(smiles: list[str]) -> tuple[np.ndarray, list[str]]:
    """The same for at least one SMILES, without cache and bar, in this process."""
    require()
    return _split(xtb_rows(smiles))


def _split(rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    return rows[:, :-1], [FAILURES[int(code)] for code in rows[:, -1]]


def versions() -> dict[str, object]:
    """What the values depend on."""
    from importlib.metadata import version

    return {"xtb": VERSION, "tblite": version("tblite"), "rdkit": rdkit.__version__, "columns": list(XTB_COLUMNS)}


def xtb_groups(smiles: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Groups of valid SMILES with their rows (n, P + 1), in order: values, and the index of the failure.

    Many SMILES are computed with one process per core.
    """
    groups = [smiles[start : start + _GROUP] for start in range(0, len(smiles), _GROUP)]
    parallel = Parallel(n_jobs=cpu_count() if len(smiles) >= _WORTH_PROCESSES else 1, return_as="generator")
    yield from zip(groups, parallel(delayed(xtb_rows)(group) for group in groups), strict=True)


def xtb_rows(smiles: list[str]) -> np.ndarray:
    """(n, P + 1) float32: values of valid SMILES and the index of the failure, computed without the cache."""
    rows = np.zeros((len(smiles), len(XTB_COLUMNS) + 1), dtype=np.float32)
    for row, text in zip(rows, smiles, strict=True):
        result = xtb_of(text)
        row[:-1], row[-1] = result.values, FAILURES.index(result.failure)
    return rows


def count_failures(failures: Sequence[str]) -> str:
    """`3 of 642 molecules have no xTB values (2 no conformer, 1 radical)`; empty if all have."""
    counts = Counter(failure for failure in failures if failure)
    if not counts:
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return f"{counts.total()} of {len(failures)} molecules have no xTB values ({reasons})"


def xtb_of(smiles: str, seed: int = _SEED) -> XTBResult:
    """GFN2-xTB's numbers of a valid SMILES; a molecule that cannot be computed has NaN and the reason.

    Args:
        smiles: of one molecule.
        seed: of the conformer.

    Raises:
        MoleculeError: RDKit cannot read it.
    """
    given = parse_smiles(smiles, max_atoms=MAX_SMILES_LENGTH)
    mol, failure = _conformer(given, seed)
    computed = None
    if not failure:
        with threadpool_limits(1):  # sums in another order would have other last digits
            computed = _singlepoints(mol)
        failure = "" if computed else "not converged"
    if computed is None:
        return XTBResult(np.full(len(XTB_COLUMNS), np.nan, dtype=np.float32), failure)
    return XTBResult(np.array(list(_columns(mol, computed).values()), dtype=np.float32), "")


def _conformer(given: Chem.Mol, seed: int) -> tuple[Chem.Mol, str]:
    """The molecule with hydrogens and one conformer, atoms in canonical order; or the reason why there is none."""
    if len(Chem.GetMolFrags(given)) > 1:
        return given, "several components"
    if Chem.AddHs(given).GetNumAtoms() > MOST_ATOMS:
        return given, "too many atoms"
    if any(atom.GetNumRadicalElectrons() for atom in given.GetAtoms()):
        return given, "radical"
    if not all(0 < atom.GetAtomicNum() <= HEAVIEST for atom in given.GetAtoms()):
        return given, "element"
    with rdBase.BlockLogs():
        canonical = Chem.MolFromSmiles(Chem.MolToSmiles(without_map_numbers(given)))
        if canonical is None:
            return given, "no conformer"
        mol = Chem.AddHs(canonical)
        parameters: Any = rdDistGeom.ETKDGv3()  # its fields are of the class itself in RDKit's stubs
        parameters.randomSeed = seed
        parameters.timeout = _EMBEDDING_SECONDS
        if rdDistGeom.EmbedMolecule(mol, parameters) < 0:
            parameters.useRandomCoords = True
            if rdDistGeom.EmbedMolecule(mol, parameters) < 0:
                return given, "no conformer"
        if mol.GetNumAtoms() == 1:
            return mol, ""
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=_STEPS)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
            rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=_STEPS)
        else:
            return given, "no force field"
    return mol, ""


def _singlepoints(mol: Chem.Mol) -> dict[str, Any] | None:
    """Results in the gas phase, with the energy and dipole in each solvent; None where one does not converge."""
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    positions = mol.GetConformer().GetPositions() / _BOHR
    results: dict[str, dict[str, Any]] = {}
    for solvent in ("gas", *_SOLVENTS):
        try:
            calculator = Calculator("GFN2-xTB", numbers, positions, charge=float(Chem.GetFormalCharge(mol)))
            calculator.set("verbosity", 0)
            if solvent != "gas":
                calculator.add("alpb-solvation", solvent)
            results[solvent] = calculator.singlepoint().dict()
        except (TBLiteRuntimeError, RuntimeError):
            return None
    gas = results["gas"]
    return {
        **{f"energy {solvent}": float(results[solvent]["energy"]) for solvent in ("gas", *_SOLVENTS)},
        "dipole water": results["water"]["dipole"],
        **{key: gas[key] for key in ("charges", "dipole", "orbital-energies", "orbital-occupations")},
    }


def _columns(mol: Chem.Mol, computed: dict[str, Any]) -> dict[str, float]:
    gas, charges = computed["energy gas"], computed["charges"]
    energies, occupied = computed["orbital-energies"], computed["orbital-occupations"] > 1
    hydrogen = np.array([atom.GetAtomicNum() == 1 for atom in mol.GetAtoms()])
    surface = _surface(mol)
    homo = float(energies[occupied].max()) * _EV if occupied.any() else np.nan
    lumo = float(energies[~occupied].min()) * _EV if not occupied.all() else np.nan
    heavy = charges[~hydrogen] if not hydrogen.all() else charges
    free = {solvent: (computed[f"energy {solvent}"] - gas) * _KCAL for solvent in _SOLVENTS}
    values = {
        **{f"xtb_dG_{solvent}": value for solvent, value in free.items()},
        **{f"xtb_logP_{solvent}": (free["water"] - free[solvent]) / _LOG_UNIT for solvent in _SOLVENTS[1:]},
        "xtb_dipole": float(np.linalg.norm(computed["dipole"])) * _DEBYE,
        "xtb_dipole_water": float(np.linalg.norm(computed["dipole water"])) * _DEBYE,
        "xtb_HOMO": homo,
        "xtb_LUMO": lumo,
        "xtb_gap": lumo - homo,
        "xtb_max_charge_H": float(charges[hydrogen].max()) if hydrogen.any() else np.nan,
        "xtb_max_charge": float(heavy.max()),
        "xtb_min_charge": float(heavy.min()),
        "xtb_sum_abs_charge": float(np.abs(charges).sum()),
        "xtb_SASA": float(surface.sum()),
        "xtb_PNSA3": float((charges * surface)[charges < 0].sum()),
        "xtb_PPSA3": float((charges * surface)[charges > 0].sum()),
        "xtb_radius_of_gyration": float(rdMolDescriptors.CalcRadiusOfGyration(mol)),
    }
    assert tuple(values) == tuple(XTB_COLUMNS)
    return values


def _surface(mol: Chem.Mol) -> np.ndarray:
    """(atoms,) surface of each atom that a sphere of 1.4 Angstrom reaches, in Angstrom^2."""
    table = Chem.GetPeriodicTable()
    rdFreeSASA.CalcSASA(mol, [table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    return np.array([float(atom.GetProp("SASA")) for atom in mol.GetAtoms()])
