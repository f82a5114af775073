"""KFLM2: molecular properties from an LLM's reading of SMILES fused with a graph neural network."""

__version__ = "0.1.0"
