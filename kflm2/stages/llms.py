"""`kflm2 llms`: what each LLM of the registry takes to run, and whether this machine has it and can."""

from kflm2.errors import SettingError
from kflm2.llm.checkpoints import is_here
from kflm2.llm.memory import Machine, Shape
from kflm2.llm.registry import LLM, LLMS

_HEAD = ("LLM", "parameters", "width", "layers", "vocabulary", "weights", "embed", "LoRA", "GFLOP/mol", "here", "fits")


def table(batch: int, tokens: int, rank: int, layers: int | None, machine: Machine) -> str:
    """A line for each LLM that the registry knows the shape of; see stages.llms for the settings.

    Raises:
        SettingError: a size that is not positive.
    """
    for name, value in (("batch", batch), ("tokens", tokens), ("rank", rank), ("layers", layers)):
        if value is not None and value < 1:
            raise SettingError(f"{name} is {value}; it must be at least 1")
    lines: list[tuple[str, ...]] = [(*_HEAD, "licence")]
    lines += [
        (llm.name, *_cells(llm, llm.shape, batch, tokens, rank, layers, machine)) for llm in LLMS.values() if llm.shape
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if place in (0, len(_HEAD)) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    cut = f", the first {layers} layers" if layers else ""
    return "\n".join(
        [
            *text,
            "",
            f"{machine.name} of {_gb(machine.memory)}, numbers in {machine.dtype}{cut}. Memory is the most a process"
            " holds, estimated;",
            f"embed: states of {batch} molecules of {tokens} tokens at a time; LoRA: a training step of rank {rank} on"
            " as many.",
        ]
    )


def _cells(
    llm: LLM, shape: Shape, batch: int, tokens: int, rank: int, layers: int | None, machine: Machine
) -> tuple[str, ...]:
    kept = min(layers or shape.layers, shape.layers)
    embed = shape.embedding_bytes(batch, tokens, machine.number, kept)
    lora = shape.lora_bytes(batch, tokens, machine.number, rank, kept)
    room = 0.9 * machine.memory  # what the system and others hold
    return (
        _count(shape.parameters()),
        str(shape.width),
        str(shape.layers),
        f"{shape.vocabulary:,}",
        _gb(machine.number * shape.parameters(head=False)),
        _gb(embed),
        _gb(lora),
        f"{shape.flops(tokens, kept) / 1e9:.1f}",
        "yes" if is_here(llm) else "no",
        "both" if max(embed, lora) < room else "embed" if embed < room else "LoRA" if lora < room else "no",
        llm.licence,
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"
