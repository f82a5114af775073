"""`kflm2 llms`: what each LLM of the registry takes to run, and whether it is on this machine and fits."""

from kflm2.config.llms import LLMsConfig
from kflm2.llm.checkpoints import is_here
from kflm2.llm.memory import Machine, Shape
from kflm2.llm.registry import LLM, LLMS
from kflm2.text_table import aligned

_HEAD = ("LLM", "parameters", "width", "layers", "vocabulary", "weights", "embed", "LoRA", "GFLOP/mol", "here", "fits")
_USABLE = 0.9
"""Share of the memory that a process can have; the system and other programs hold the rest."""


def run(config: LLMsConfig) -> None:
    """Print the table for this machine."""
    print(table(config, Machine.detect()))


def table(config: LLMsConfig, machine: Machine) -> str:
    """A line for each LLM of which the registry knows the shape."""
    rows: list[tuple[str, ...]] = [(*_HEAD, "licence")]
    rows += [(llm.name, *_cells(llm, llm.shape, config, machine)) for llm in LLMS.values() if llm.shape]
    cut = f", the first {config.layers} layers" if config.layers else ""
    return "\n".join(
        [
            *aligned(rows, left=(0, len(_HEAD))),
            "",
            f"{machine.name} of {_gb(machine.memory)}, numbers in {machine.dtype}{cut}. Memory is the most a process"
            " holds, estimated;",
            f"embed: states of {config.batch} molecules of {config.tokens} tokens at a time; LoRA: a training step of"
            f" rank {config.rank} on as many.",
        ]
    )


def _cells(llm: LLM, shape: Shape, config: LLMsConfig, machine: Machine) -> tuple[str, ...]:
    layers = min(config.layers or shape.layers, shape.layers)
    embed = shape.embedding_bytes(config.batch, config.tokens, machine.bytes_per_number, layers)
    lora = shape.lora_bytes(config.batch, config.tokens, machine.bytes_per_number, config.rank, layers)
    # the whole LLM is loaded before layers are cut
    lora = max(lora, machine.bytes_per_number * shape.parameters())
    available = _USABLE * machine.memory
    return (
        _count(shape.parameters()),
        str(shape.width),
        str(shape.layers),
        f"{shape.vocabulary:,}",
        _gb(machine.bytes_per_number * shape.parameters(head=False)),
        _gb(embed),
        _gb(lora),
        f"{shape.flops(config.tokens, layers) / 1e9:.1f}",
        "yes" if is_here(llm) else "no",
        "both"
        if max(embed, lora) < available
        else "embed"
        if embed < available
        else "LoRA"
        if lora < available
        else "no",
        llm.licence,
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
