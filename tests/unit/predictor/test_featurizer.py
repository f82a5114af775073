"""Reading molecules without models."""

import subprocess
import sys


def test_a_process_that_only_reads_molecules_starts_without_pytorch() -> None:
    # on a machine with a GPU there is such a process for each core
    program = """
import sys
from kflm2.predictor.chunks import Chunk, ChunkReader
from kflm2.predictor.featurizer import MoleculeFeaturizer
from kflm2.predictor.readers import InputRow, MoleculeReader
from kflm2.trainers import jobs
reader = MoleculeReader.of(("CCO",), None, None)
featurizer = MoleculeFeaturizer("none", ("graph", "descriptors"), "rdkit", ("svm",), 100)
read = ChunkReader(reader, featurizer)(Chunk(0, [InputRow("CCO"), InputRow("C(")])).read
print(read.rows, read.features.descriptors.shape[0], {"torch", "transformers", "torch_geometric"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[0]", "1", "set()"]
