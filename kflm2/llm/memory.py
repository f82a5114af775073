"""Size of an LLM, and the memory and operations it needs, estimated from its shape."""

from dataclasses import dataclass

_IMPORTS = 4e8
"""Bytes that Python needs with torch, transformers and peft imported."""


@dataclass(frozen=True)
class Shape:
    """Sizes from the config of a Llama or Qwen2 checkpoint."""

    width: int
    """D"""
    layers: int
    inner: int
    """Hidden width of the feed-forward block."""
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    """The vocabulary head shares the weights of the token embeddings."""
    qkv_bias: bool = False

    def _linears(self) -> list[tuple[int, int]]:
        """Input and output widths of a layer's seven linear maps: q, k, v, o, gate, up, down."""
        kv = self.width // self.heads * self.kv_heads
        attention = [(self.width, self.width), (self.width, kv), (self.width, kv), (self.width, self.width)]
        return [*attention, (self.width, self.inner), (self.width, self.inner), (self.inner, self.width)]

    def parameters(self, layers: int | None = None, head: bool = True) -> int:
        """Number of weights of the first layers, with token embeddings and final norm.

        Args:
            layers: number of layers; default all.
            head: count the vocabulary head, if it is not tied.
        """
        kv = self.width // self.heads * self.kv_heads
        layer = sum(a * b for a, b in self._linears()) + 2 * self.width + self.qkv_bias * (self.width + 2 * kv)
        embeddings = 2 if head and not self.tied else 1
        return embeddings * self.vocabulary * self.width + (layers or self.layers) * layer + self.width

    def linear_weights(self, layers: int | None = None) -> int:
        """Number of weights of the layers' linear maps."""
        return (layers or self.layers) * sum(a * b for a, b in self._linears())

    def lora_parameters(self, rank: int, layers: int | None = None) -> int:
        """Number of weights of a LoRA adapter on all linear maps of the layers."""
        return (layers or self.layers) * rank * sum(a + b for a, b in self._linears())

    def flops(self, tokens: int, layers: int | None = None) -> float:
        """Floating-point operations for one molecule: two per weight and token, and the two products of attention."""
        attention = 2 * (layers or self.layers) * tokens * self.width
        return 2.0 * tokens * (self.linear_weights(layers) + attention)

    def embedding_bytes(self, batch: int, tokens: int, bytes_per_number: int, layers: int | None = None) -> float:
        """Maximum memory in bytes while hidden states are computed.

        All weights are loaded before layers are cut. The states of every layer are stored until the batch is done; the
        active layer needs about ten vectors of the width and five of the inner width for each token.

        Args:
            batch: molecules in a forward pass.
            tokens: tokens of each molecule.
            bytes_per_number: 4 for float32, 2 for bfloat16.
            layers: number of layers that are run; default all.
        """
        states = ((layers or self.layers) + 1) * self.width + 10 * self.width + 5 * self.inner
        return _IMPORTS + bytes_per_number * (self.parameters(head=False) + batch * tokens * states)

    def lora_bytes(self, batch: int, tokens: int, bytes_per_number: int, rank: int, layers: int | None = None) -> float:
        """Maximum memory in bytes while a LoRA adapter on all linear maps is trained, without gradient checkpointing.

        The backward pass needs, for each token and layer, the inputs and outputs of norms and rotation, queries, keys,
        values and outputs of attention, and the input of each adapter with its dropout mask: about 25 vectors of the
        width and six of the inner width; and for each token the logits three times. Each adapter weight has a gradient
        and Adam's two moments, in float32.
        """
        activations = (layers or self.layers) * (25 * self.width + 6 * self.inner)
        per_token = bytes_per_number * activations + 3 * 4 * self.vocabulary
        adapter = 16 * self.lora_parameters(rank, layers)
        return _IMPORTS + bytes_per_number * self.parameters(layers) + adapter + batch * tokens * per_token


@dataclass(frozen=True)
class Machine:
    """Device on which an LLM would run."""

    name: str
    memory: float
    """Total bytes of the GPU, or of the RAM if there is no GPU."""
    bytes_per_number: int
    """Bytes of a number of `dtype`."""
    dtype: str

    @staticmethod
    def detect(device: str = "auto") -> "Machine":
        """The GPU that `device` names (`auto`: the first one), or this machine's RAM."""
        import psutil
        import torch

        from kflm2.device import choose_device, llm_dtype

        torch_device = choose_device(device)
        dtype = llm_dtype(torch_device)
        if torch_device.type == "cuda":
            properties = torch.cuda.get_device_properties(torch_device)
            name, memory = properties.name, float(properties.total_memory)
        else:
            name, memory = "RAM", float(psutil.virtual_memory().total)
        return Machine(name, memory, dtype.itemsize, str(dtype).removeprefix("torch."))
