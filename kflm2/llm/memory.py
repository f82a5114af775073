"""How large an LLM is, what it takes to run it, and whether that fits this machine; from its shape alone."""

from dataclasses import dataclass

_IMPORTS = 4e8
"""Bytes that Python holds with torch, transformers and peft loaded."""


@dataclass(frozen=True)
class Shape:
    """What the config of a Llama or Qwen2 checkpoint says of its size."""

    width: int
    """D"""
    layers: int
    inner: int
    """Width inside the feed-forward block."""
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    """The vocabulary head shares the token embeddings' weights."""
    qkv_bias: bool = False

    def _linears(self) -> list[tuple[int, int]]:
        """In and out of a layer's seven linear maps: q, k, v, o, gate, up, down."""
        kv = self.width // self.heads * self.kv_heads
        attention = [(self.width, self.width), (self.width, kv), (self.width, kv), (self.width, self.width)]
        return [*attention, (self.width, self.inner), (self.width, self.inner), (self.inner, self.width)]

    def parameters(self, layers: int | None = None, head: bool = True) -> int:
        """Weights of the first layers, with token embeddings and final norm.

        Args:
            layers: default all.
            head: count the vocabulary head, where it has weights of its own.
        """
        kv = self.width // self.heads * self.kv_heads
        layer = sum(a * b for a, b in self._linears()) + 2 * self.width + self.qkv_bias * (self.width + 2 * kv)
        tables = 2 if head and not self.tied else 1
        return tables * self.vocabulary * self.width + (layers or self.layers) * layer + self.width

    def linear_weights(self, layers: int | None = None) -> int:
        """Weights of the layers' linear maps."""
        return (layers or self.layers) * sum(a * b for a, b in self._linears())

    def lora_parameters(self, rank: int, layers: int | None = None) -> int:
        """Weights of a LoRA adapter on all linear maps of the layers."""
        return (layers or self.layers) * rank * sum(a + b for a, b in self._linears())

    def flops(self, tokens: int, layers: int | None = None) -> float:
        """Floating-point operations to read one molecule: two a weight and token, and attention's two products."""
        attention = 2 * (layers or self.layers) * tokens * self.width
        return 2.0 * tokens * (self.linear_weights(layers) + attention)

    def embedding_bytes(self, batch: int, tokens: int, number: int, layers: int | None = None) -> float:
        """Memory at most while states are computed.

        All weights are loaded before layers are cut. The states of every layer are kept until the batch is done; a
        layer at work holds about ten vectors of the width and five of the inner width for each token.

        Args:
            batch: molecules in a forward pass.
            tokens: of each.
            number: bytes of a number: 4 for float32, 2 for bfloat16.
            layers: that are run; default all.
        """
        states = ((layers or self.layers) + 1) * self.width + 10 * self.width + 5 * self.inner
        return _IMPORTS + number * (self.parameters(head=False) + batch * tokens * states)

    def lora_bytes(self, batch: int, tokens: int, number: int, rank: int, layers: int | None = None) -> float:
        """Memory at most while a LoRA adapter on all linear maps is trained, without gradient checkpointing.

        Backward needs, for each token and layer, the inputs and outputs of norms and rotation, queries, keys, values
        and outputs of attention, and the input of each adapter with its dropout mask: about 25 vectors of the width and
        six of the inner width; and for each token the logits three times. Adapter weights come with gradient and Adam's
        two moments, in float32.
        """
        per_token = number * (layers or self.layers) * (25 * self.width + 6 * self.inner) + 3 * 4 * self.vocabulary
        adapter = 16 * self.lora_parameters(rank, layers)
        return _IMPORTS + number * self.parameters(layers) + adapter + batch * tokens * per_token


@dataclass(frozen=True)
class Machine:
    """Where an LLM would run."""

    name: str
    memory: float
    """Bytes in all, of the GPU where there is one."""
    number: int
    """Bytes of a number there."""
    dtype: str

    @staticmethod
    def here(device: str = "auto") -> "Machine":
        """The GPU that is asked for, the first one, else this machine's RAM."""
        import psutil
        import torch

        from kflm2.device import choose_device, llm_dtype

        own = choose_device(device)
        dtype = llm_dtype(own)
        if own.type == "cuda":
            properties = torch.cuda.get_device_properties(own)
            name, memory = properties.name, float(properties.total_memory)
        else:
            name, memory = "RAM", float(psutil.virtual_memory().total)
        return Machine(name, memory, dtype.itemsize, str(dtype).removeprefix("torch."))
