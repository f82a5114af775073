"""Speed of building graphs from SMILES and batches from graphs: ours, the original's and PyG's.

    python benchmark/graphs.py

All three start from the same SMILES, build every graph, and pass once over batches of 32 in file order. In each round
they run in turn, so that other load affects all of them. One line per implementation:

    original    a networkx graph per molecule, a tensor per atom, then torch_geometric's Data and DataLoader
    PyG         torch_geometric.utils.from_smiles, then its DataLoader
    ours        kflm2's graphs_of, then batches as in training, by Features.batch

Columns, each the median of the rounds:

    building    molecules/s from SMILES to graphs
    batching    molecules/s from graphs to batches of tensors
    together    molecules/s of building and batching once
    ours is     how many times faster ours is, for building and batching once
    atoms       in all batches
    edges       in all batches; the original has one per bond, the others two
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import rdkit
import torch
import torch_geometric
from rdkit import Chem
from rdkit.Chem.rdchem import HybridizationType, ValenceType
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.utils import from_smiles

from kflm2.data.molecules import parse_smiles
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import ELEMENTS, graphs_of
from kflm2.files import project_folder

BATCH = 32
WARM_UP = 64
"""Molecules before the first round."""

SYMBOLS = [*ELEMENTS, "Unknown"]
HYBRIDIZATIONS = [
    HybridizationType.SP,
    HybridizationType.SP2,
    HybridizationType.SP3,
    HybridizationType.SP3D,
    HybridizationType.SP3D2,
]
ORIGINAL_WIDTH = 64


@dataclass(frozen=True)
class Pass:
    """Time and sizes of one implementation, from SMILES to batches."""

    building: float
    """Seconds."""
    batching: float
    """Seconds."""
    atoms: list[int]
    """Of each batch."""
    edges: list[int]
    """Of each batch."""

    @property
    def together(self) -> float:
        """Seconds."""
        return self.building + self.batching


def one_of_k(value: object, choices: Sequence[object]) -> list[bool]:
    """One-hot; a value that is not among the choices counts as the last of them."""
    if value not in choices:
        value = choices[-1]
    return list(map(lambda choice: value == choice, choices))  # noqa: C417 - as in the original, whose speed is measured


def original_graph(text: str) -> Data:
    """Graph of a SMILES by networkx, one atom and one bond at a time."""
    mol = Chem.MolFromSmiles(text)
    graph = nx.Graph()
    for atom in mol.GetAtoms():
        features = (
            one_of_k(atom.GetSymbol(), SYMBOLS)
            + one_of_k(atom.GetDegree(), range(7))
            + one_of_k(atom.GetValence(ValenceType.IMPLICIT), range(7))
            + one_of_k(atom.GetHybridization(), HYBRIDIZATIONS)
            + [atom.GetIsAromatic()]
            + one_of_k(atom.GetTotalNumHs(), range(5))
        )
        graph.add_node(atom.GetIdx(), features=torch.tensor(features, dtype=torch.float32))
    seen = set()
    for bond in mol.GetBonds():
        ends = frozenset((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        if ends not in seen:
            seen.add(ends)
            graph.add_edge(*ends)
    nodes = torch.stack([features for _, features in graph.nodes(data="features")])
    edges = torch.stack([torch.LongTensor((u, v)) for u, v in graph.edges])
    return Data(x=nodes[:, :ORIGINAL_WIDTH], edge_index=edges.T)


def torch_geometric_pass(build: Callable[[str], Data], smiles: list[str]) -> Pass:
    """Graphs built one by one, batched by torch_geometric."""
    start = time.perf_counter()
    graphs = [build(text) for text in smiles]
    built = time.perf_counter()
    sizes = [(batch.num_nodes, batch.num_edges) for batch in DataLoader(graphs, batch_size=BATCH)]
    return timed(start, built, sizes)


def our_pass(smiles: list[str]) -> Pass:
    """All graphs at once, batches by index arithmetic."""
    device = torch.device("cpu")
    start = time.perf_counter()
    features = Features(graphs=graphs_of(map(parse_smiles, smiles)))
    built = time.perf_counter()
    sizes = []
    for first in range(0, len(smiles), BATCH):
        batch = features.batch(np.arange(first, min(first + BATCH, len(smiles))), device)
        assert batch.x is not None and batch.edge_index is not None
        sizes.append((batch.x.shape[0], batch.edge_index.shape[1]))
    return timed(start, built, sizes)


def timed(start: float, built: float, sizes: list[tuple[int, int]]) -> Pass:
    """The record of a pass that ends now; sizes are atoms and edges of each batch."""
    batched = time.perf_counter()
    return Pass(built - start, batched - built, [atoms for atoms, _ in sizes], [edges for _, edges in sizes])


SIDES: dict[str, Callable[[list[str]], Pass]] = {
    "original": lambda smiles: torch_geometric_pass(original_graph, smiles),
    "PyG": lambda smiles: torch_geometric_pass(from_smiles, smiles),
    "ours": our_pass,
}


def main() -> None:
    """Measure the implementations in turn, print."""
    parser = argparse.ArgumentParser(description="Speed of building and batching molecular graphs.")
    parser.add_argument("--molecules", type=int, default=5000, help="first molecules of dataset/zinc_sample.smi (5000)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each implementation (3)")
    options = parser.parse_args()
    smiles = (project_folder() / "dataset" / "zinc_sample.smi").read_text().split()[: options.molecules]

    for measure in SIDES.values():
        measure(smiles[:WARM_UP])
    passes: dict[str, list[Pass]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side, measure in SIDES.items():
            # free the objects of the previous implementation outside the measured time
            gc.collect()
            passes[side].append(measure(smiles))

    print(
        f"{len(smiles)} molecules, batches of {BATCH}, medians of {options.rounds} rounds,"
        f" RDKit {rdkit.__version__}, networkx {nx.__version__}, torch_geometric {torch_geometric.__version__},"
        f" torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print("            building   batching   together   ours is     atoms     edges")
    print("             mol / s    mol / s    mol / s                              ")
    for side, measured in passes.items():
        building, batching, together = (
            len(smiles) / statistics.median(times)
            for times in (
                [p.building for p in measured],
                [p.batching for p in measured],
                [p.together for p in measured],
            )
        )
        ratio = statistics.median(p.together / ours.together for p, ours in zip(measured, passes["ours"], strict=True))
        faster = f"{ratio:.1f}x" if side != "ours" else ""
        atoms, edges = sum(measured[-1].atoms), sum(measured[-1].edges)
        print(f"{side:9}{building:11.0f}{batching:11.0f}{together:11.0f}{faster:>10}{atoms:10}{edges:10}")
    print(f"\natoms and bonds of every batch: {agreement(*(passes[side][-1] for side in SIDES))}")


def agreement(original: Pass, pyg: Pass, ours: Pass) -> str:
    """Whether the graphs of the three implementations have the same sizes."""
    doubled = [2 * edges for edges in original.edges]
    same = original.atoms == pyg.atoms == ours.atoms and doubled == pyg.edges == ours.edges
    return "the same in all three" if same else "NOT the same in all three"


if __name__ == "__main__":
    main()
