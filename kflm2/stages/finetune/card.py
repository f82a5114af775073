"""An adapter's figures for people: a table in the terminal, a model card, a picture of its losses."""

import csv
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kflm2.data.datasets import DATASETS
from kflm2.files import atomic


def summary(made: dict[str, Any], folder: Path) -> str:
    """What a person sees at the end."""
    corpus = made["corpus"]
    rows = [("", "before", "after"), *_figures(made["judged"])]
    width = max(len(row[0]) for row in rows)
    table = "\n".join(f"{name:<{width}}  {before:>9}  {after:>9}" for name, before, after in rows)
    taught = f"taught with {corpus['taught']:,} SMILES of {corpus['name']} in {made['seconds']:.0f} s"
    return f"\n{made['llm']['name']} {taught}\n\n{table}\n{_whole(made)}\nadapter: {folder}"


def _whole(made: dict[str, Any]) -> str:
    if made["layers"] is None:
        return ""
    return f"perplexity and samples before are of the whole LLM; all else is of its first {made['layers']} layers\n"


def _figures(judged: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was judged, before and after."""
    before, after = judged["before"], judged["after"]
    rows = []
    if count := judged["held_out"]:
        title = f"perplexity a token, {count} held out"
        rows.append((title, f"{before['perplexity']:.4g}", f"{after['perplexity']:.4g}"))
    number = after["sampled"]["number"]
    for name, title in (
        ("valid", f"valid of {number} sampled"),
        ("unique", "different of these"),
        ("novel", "new of these"),
    ):
        one, two = (f"{100 * own['sampled'][name]:.1f} %" for own in (before, after))
        rows.append((title, one, two))
    for name, error in after["probe"].items():
        title = f"linear probe of {name}, RMSE in {DATASETS[name].unit}"
        rows.append((title, f"{before['probe'][name]:.3f}", f"{error:.3f}"))
    return rows


def card(made: dict[str, Any]) -> str:
    """The model card, Markdown."""
    llm, corpus = made["llm"], made["corpus"]
    counts = (f"{name.replace('_', ' ')} {value:,}" for name, value in corpus.items() if isinstance(value, int))
    rows = [
        ("LLM", f"{llm['name']} {llm['hub_id']}".strip()),
        ("layers", f"the first {made['layers']}" if made["layers"] else "all"),
        ("corpus", f"{corpus['name']}, SHA-256 {corpus['sha256']}"),
        ("molecules", ", ".join(counts)),
        ("left out as tested were those of", ", ".join(corpus["tested"]) or "no dataset"),
        ("seconds", made["seconds"]),
        *((f"`{name}`", value) for name, value in made["config"].items()),
        *((f"version of {name}", value) for name, value in made["versions"].items()),
        ("commit", made["commit"]),
    ]
    return "\n".join(
        [
            "---",
            "library_name: peft",
            f"base_model: {llm['hub_id'] or llm['name']}",
            "---",
            "",
            f"# LoRA adapter for {llm['name']}, taught with {corpus['name']}",
            "",
            "Made by `kflm2 finetune`; its hidden states describe molecules given as SMILES.",
            "",
            "| | before | after |",
            "|---|---|---|",
            *(f"| {name} | {before} | {after} |" for name, before, after in _figures(made["judged"])),
            "",
            _whole(made),
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
        ]
    )


_UNITS = {"next token": "next token, nats", "descriptors": "descriptors, squared error (ranks, sd 1)"}


def draw_losses(losses: Path, picture: Path) -> None:
    """Losses over the steps, smoothed over a fiftieth of them."""
    with losses.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    for name in [key for key in rows[0] if key != "step"]:
        steps, values = zip(*((int(row["step"]), float(row[name])) for row in rows if row[name]), strict=True)
        window = max(1, len(values) // 50)
        smooth = torch.tensor(values).unfold(0, window, 1).mean(dim=1)
        axis.plot(steps[window - 1 :], smooth.tolist(), label=_UNITS[name])
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    # powers of ten are hard to read over a single decade
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.legend(frameon=False)
    with atomic(picture) as temporary:
        figure.savefig(temporary, dpi=150)
