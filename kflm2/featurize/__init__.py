"""Model inputs computed from SMILES: LLM states, graph, descriptors."""
