"""From SMILES to what a model reads of them, but for the LLM's states; PyTorch is not imported, but by MiniMol.

With a GPU this is the work of other processes, which so start in less time and memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from kflm2.config.train import COUNT_VOTERS, VoterName
from kflm2.data.covariates import also_needed
from kflm2.data.molecules import elements_of
from kflm2.data.similarity import Fingerprints, fingerprints_of
from kflm2.data.structures import Standardization, standard_molecule
from kflm2.errors import DataError, MoleculeError
from kflm2.featurize.covariate_scaler import CovariateScaler
from kflm2.featurize.descriptors import descriptors_and_counts, without
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import graphs_of
from kflm2.featurize.minimol import UNREADABLE, compute_uncached

OK = "ok"


@dataclass(frozen=True)
class ReadMolecules:
    """What is known of n molecules before any model reads them."""

    status: list[str]
    """(n,) ok, or why the SMILES cannot be read."""
    rows: list[int]
    """Indices of the m molecules that can be read."""
    smiles: list[str]
    """(m,) in standard form."""
    fingerprints: Fingerprints
    """(m,) Morgan fingerprints."""
    elements: list[frozenset[int]]
    """(m,) see elements_of."""
    features: Features
    """Of m molecules, without states; descriptors and covariates are not scaled."""
    outside: list[str] | None = None
    """(m,) covariates outside the range of training, empty where there are none; None for a model that reads none."""
    xtb: list[str] | None = None
    """(m,) why a molecule has no xTB values, empty where it has; None for a model that reads none."""

    def without(self, problems: dict[int, str]) -> "ReadMolecules":
        """Without some of the m molecules; `problems` has their numbers and the reasons."""
        if not problems:
            return self
        status = list(self.status)
        for i, problem in problems.items():
            status[self.rows[i]] = problem
        kept = np.array([i for i in range(len(self.rows)) if i not in problems], dtype=np.int64)
        return ReadMolecules(
            status,
            [self.rows[i] for i in kept],
            [self.smiles[i] for i in kept],
            [self.fingerprints[i] for i in kept],
            [self.elements[i] for i in kept],
            self.features.subset(kept),
            None if self.outside is None else [self.outside[i] for i in kept],
            None if self.xtb is None else [self.xtb[i] for i in kept],
        )


@dataclass(frozen=True)
class MoleculeFeaturizer:
    """Reads SMILES into what a model needs beside the LLM's states; it has no models, and goes to any process."""

    standardize: Standardization
    views: tuple[str, ...]
    descriptors: str
    """Those that are read."""
    voters: tuple[VoterName, ...]
    """Those that are read."""
    max_atoms: int
    covariates: CovariateScaler | None = None
    """What reads the columns beside the structure; None where these are not read."""

    def __call__(self, smiles: Sequence[str], cells: Sequence[Sequence[str]] | None = None) -> ReadMolecules:
        """Read n SMILES; one that cannot be read, or whose cells cannot, has the reason as its status.

        Args:
            smiles: n SMILES.
            cells: of each the C cells of the columns beside the structure.

        Raises:
            DataError: no cells, and the model needs them.
        """
        if self.covariates is not None and cells is None:
            raise DataError(f"{also_needed(self.covariates.names)} beside the SMILES: give a table that has them")
        status = [OK] * len(smiles)
        standard: dict[int, str] = {}
        mols: list[Chem.Mol] = []
        covariates: list[np.ndarray] = []
        outside: list[str] = []
        for i, text in enumerate(smiles):
            try:
                standard_text, mol = standard_molecule(text.strip(), self.standardize, self.max_atoms)
                if self.covariates is not None and cells is not None:
                    values, beyond = self.covariates.read(cells[i])
                    covariates.append(values)
                    outside.append(beyond)
            except MoleculeError as error:
                status[i] = str(error)
            else:
                standard[i] = standard_text
                mols.append(mol)
        texts = list(standard.values())
        # what the LLM was taught is read off its states, later
        plain = without(self.descriptors, "taught")
        descriptors, counts, failures = descriptors_and_counts(plain, not COUNT_VOTERS.isdisjoint(self.voters), texts)
        minimol = compute_uncached(texts) if texts and "minimol" in self.voters else None
        graphs = graphs_of(mols) if mols and "graph" in self.views else None
        scaled = np.stack(covariates) if covariates else None
        features = Features(None, graphs, descriptors, counts, covariates=scaled, minimol=minimol)
        xtb = failures if "xtb" in self.descriptors else None
        beyond_training = None if self.covariates is None else outside
        prints, elements = fingerprints_of(mols), list(map(elements_of, mols))
        read = ReadMolecules(status, list(standard), texts, prints, elements, features, beyond_training, xtb)
        unreadable = [] if minimol is None else np.flatnonzero(np.isnan(minimol).any(axis=1)).tolist()
        return read.without(dict.fromkeys(unreadable, UNREADABLE))
