"""What a descriptor measures, in a few words.

Most words are those of RDKit: the first line of a descriptor's docstring. Families of descriptors, and those whose
docstring is missing or says too little, have their words here.
"""

import re

from rdkit.Chem import Descriptors

_WORDS = {
    "AvgIpc": "information content of the skeleton's connectivity, average",
    "BalabanJ": "Balaban's J: how branched and cyclic the skeleton is",
    "BertzCT": "complexity of the bonds and the heteroatoms (Bertz)",
    "FractionCSP3": "fraction of the C atoms that are sp3",
    "HallKierAlpha": "correction of the Kappa shape indices for size and hybridization of atoms",
    "HeavyAtomCount": "number of heavy atoms",
    "HeavyAtomMolWt": "molecular weight without the hydrogens",
    "Ipc": "information content of the skeleton's connectivity",
    "LabuteASA": "approximate surface area, A^2 (Labute)",
    "MolLogP": "log P (octanol/water), estimated from atom types (Wildman-Crippen)",
    "MolMR": "molar refractivity, estimated from atom types (Wildman-Crippen)",
    "MolWt": "molecular weight",
    "NOCount": "number of N and O atoms",
    "NHOHCount": "number of N-H and O-H bonds",
    "NumHAcceptors": "number of hydrogen-bond acceptors",
    "NumHDonors": "number of hydrogen-bond donors",
    "NumRadicalElectrons": "number of radical electrons",
    "NumValenceElectrons": "number of valence electrons",
    "Phi": "flexibility index (Kier)",
    "RingCount": "number of rings",
    "SPS": "spacial score: complexity of the stereochemistry, rings and sp3 atoms, per heavy atom",
    "TPSA": "topological polar surface area (N, O and their H), A^2",
    "fr_HOCCN": "number of beta-amino alcohols with a tert-butyl or cyclic amine",
    "fr_Ndealkylation1": "number of amines X-C-C-N-R, where enzymes may remove an alkyl group",
    "fr_Ndealkylation2": "number of tertiary cyclic amines, where enzymes may remove an alkyl group",
    "fr_bicyclic": "number of bicyclic ring systems",
    "fr_para_hydroxylation": "number of aromatic CH para to O or N, where enzymes may add OH",
    "fr_piperdine": "number of piperidine rings",
    "fr_piperzine": "number of piperazine rings",
    "xtb_dG_water": "free energy of solvation in water, kcal/mol (GFN2-xTB, ALPB)",
    "xtb_dG_octanol": "free energy of solvation in octanol, kcal/mol (GFN2-xTB, ALPB)",
    "xtb_dG_hexane": "free energy of solvation in hexane, kcal/mol (GFN2-xTB, ALPB)",
    "xtb_logP_octanol": "log P (octanol/water) from solvation free energies (GFN2-xTB, ALPB)",
    "xtb_logP_hexane": "log P (hexane/water) from solvation free energies (GFN2-xTB, ALPB)",
    "xtb_dipole": "dipole moment in the gas phase, Debye (GFN2-xTB)",
    "xtb_dipole_water": "dipole moment in water, Debye (GFN2-xTB, ALPB)",
    "xtb_HOMO": "energy of the highest occupied orbital, eV (GFN2-xTB)",
    "xtb_LUMO": "energy of the lowest unoccupied orbital, eV (GFN2-xTB)",
    "xtb_gap": "LUMO minus HOMO, eV (GFN2-xTB)",
    "xtb_max_charge_H": "highest charge of a hydrogen, e (GFN2-xTB)",
    "xtb_max_charge": "highest charge of a heavy atom, e (GFN2-xTB)",
    "xtb_min_charge": "lowest charge of a heavy atom, e (GFN2-xTB)",
    "xtb_sum_abs_charge": "sum of the absolute charges of all atoms, e (GFN2-xTB)",
    "xtb_SASA": "surface area of one conformer that a solvent reaches, A^2",
    "xtb_PNSA3": "surface area times charge, over negative atoms (GFN2-xTB)",
    "xtb_PPSA3": "surface area times charge, over positive atoms (GFN2-xTB)",
    "xtb_radius_of_gyration": "radius of gyration of one conformer, A",
    "qed": "drug-likeness, from 0 to 1 (QED)",
}
_EXTREME = {"Max": "highest", "Min": "lowest", "MaxAbs": "largest absolute", "MinAbs": "smallest absolute"}
_BCUT = {"MW": "atomic mass", "CHG": "partial charge", "LOGP": "log P contribution", "MR": "molar refractivity"}
_SURFACE = {
    "PEOE_VSA": "surface area of atoms with a partial charge",
    "SMR_VSA": "surface area of atoms with a molar refractivity",
    "SlogP_VSA": "surface area of atoms with a log P contribution",
    "EState_VSA": "surface area of atoms with an E-state index",
    "VSA_EState": "sum of E-state indices of atoms with a surface area",
}
_CHI = {"": "", "v": ", with valence electrons", "n": ", with valence electrons, all periods alike"}


def meaning(name: str) -> str:
    """What a descriptor measures; empty for an unknown name.

    Args:
        name: of descriptors.descriptor_names.
    """
    if name.startswith("Morgan bit"):
        return "a substructure around an atom, of radius <= 2 bonds"
    if name.startswith("taught_"):
        own = name.removeprefix("taught_")
        return f"read off the SMILES by the LLM: {meaning(own) or own}"
    return _WORDS.get(name) or _of_family(name) or _of_docstring(name)


def _of_family(name: str) -> str:
    if match := re.fullmatch(r"(Max|Min)(Abs)?(EStateIndex|PartialCharge)", name):
        extreme = _EXTREME[f"{match[1]}{match[2] or ''}"]
        quantity = "electrotopological (E-state) index" if match[3] == "EStateIndex" else "partial charge (Gasteiger)"
        return f"{extreme} {quantity} of an atom"
    if match := re.fullmatch(r"BCUT2D_([A-Z]+?)(HI|LOW|LO)", name):
        extreme = "highest" if match[2] == "HI" else "lowest"
        return f"{extreme} eigenvalue of the connectivity matrix with {_BCUT[match[1]]}"
    if match := re.fullmatch(r"Chi(\d)([vn]?)", name):
        return f"connectivity index of order {match[1]}: size and branching{_CHI[match[2]]}"
    if match := re.fullmatch(r"Kappa(\d)", name):
        return f"shape index of order {match[1]}: how long or branched the molecule is"
    if match := re.fullmatch(r"FpDensityMorgan(\d)", name):
        return f"different substructures of radius <= {match[1]} bonds, per heavy atom"
    if (match := re.fullmatch(r"(\w+?)\d+", name)) and match[1] in _SURFACE:
        return f"{_SURFACE[match[1]]} {_range(_docstring(name))}"
    return ""


def _range(docstring: str) -> str:
    """The range of a docstring such as 'MOE Charge VSA Descriptor 2 (-0.30 <= x < -0.25)'."""
    match = re.search(r"\(\s*(\S+)\s*<=?\s*x\s*<\s*(\S+?)\s*\)", docstring)
    if match is None:
        return "in one range"
    if match[1] == "-inf":
        return f"below {match[2]}"
    return f"of {match[1]} or more" if match[2] == "inf" else f"of {match[1]} to {match[2]}"


def _docstring(name: str) -> str:
    return dict(Descriptors.descList)[name].__doc__ or ""


def _of_docstring(name: str) -> str:
    """The first sentence of RDKit's docstring, without its signature."""
    if name not in dict(Descriptors.descList):
        return ""
    lines = [" ".join(line.split()) for line in _docstring(name).splitlines() if line.strip()]
    text = next((line for line in lines if not line.startswith("Calc")), "")
    text = re.sub(r"^([Rr]eturns )?(the |The )?", "", text).removesuffix(".").removesuffix(" for a molecule")
    text = text.replace(" in a molecule", "").replace(" the molecule has", "").replace(" of the molecule", "")
    # "Number of Tertiary amines"
    return re.sub(r"^[A-Z](?=[a-z])|(?<=^Number of )[A-Z](?=[a-z])", lambda match: match[0].lower(), text)
