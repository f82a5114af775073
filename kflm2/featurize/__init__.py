"""What a model sees of a molecule: LLM states, graph, descriptors."""
