"""Presentation of an adapter's record: table in the terminal, model card, plot of the losses."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from kflm2.data.datasets import DATASETS
from kflm2.plotting import save_figure, styled, use_log_scale
from kflm2.text_table import aligned


def summary(record: dict[str, Any], folder: Path) -> str:
    """Text that `kflm2 finetune` prints at the end."""
    corpus = record["corpus"]
    training = f"fine-tuned on {corpus['taught']:,} SMILES of {corpus['name']} in {record['seconds']:.0f} s"
    table = ""
    if "judged" in record:
        rows = aligned([("", "before", "after"), *_metric_rows(record["judged"])])
        table = "\n".join(rows) + f"\n{_note_on_layers(record)}\n"
    if knowledge := _knowledge_rows(record):
        header = ("R2 of ranks, held out", "columns", "median", "80 % of them")
        table += "\n".join(aligned([header, *knowledge])) + "\n\n"
    return f"\n{record['llm']['name']} {training}\n\n{table}adapter: {folder}"


def _note_on_layers(record: dict[str, Any]) -> str:
    if record["layers"] is None:
        return ""
    return f"perplexity and samples before are of the whole LLM; all else is of its first {record['layers']} layers\n"


def _metric_rows(evaluation: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name of each metric, and its value before and after."""
    before, after = evaluation["before"], evaluation["after"]
    rows = []
    if count := evaluation["held_out"]:
        for name, smiles in (("perplexity", "held out"), ("perplexity_of_random_smiles", "held out, random SMILES")):
            for unit in ("token", "character"):
                title = f"perplexity per {unit}, {count} {smiles}"
                values = [f"{metrics[name][f'per_{unit}']:.4g}" for metrics in (before, after)]
                rows.append((title, values[0], values[1]))
    if "sampled" in after:
        for name, title in (
            ("valid", f"valid of {after['sampled']['number']} sampled"),
            ("unique", "different of these"),
            ("novel", "new of these"),
        ):
            shares = [f"{100 * metrics['sampled'][name]:.1f} %" for metrics in (before, after)]
            rows.append((title, shares[0], shares[1]))
    for name, error in after["probe"].items():
        title = f"linear probe of {name}, RMSE in {DATASETS[name].unit}"
        rows.append((title, f"{before['probe'][name]:.3f}", f"{error:.3f}"))
    return rows


def _knowledge_rows(record: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Source, number of columns, median R2 and range, of columns that vary among what was held out."""
    rows = []
    for source, values in record.get("knowledge_r2", {}).items():
        known = np.array([value for value in values.values() if value is not None])
        if len(known):
            middle = f"{np.median(known):.2f}"
            rows.append(
                (source, str(len(known)), middle, f"{np.quantile(known, 0.1):.2f} to {np.quantile(known, 0.9):.2f}")
            )
    return rows


def _knowledge_table(record: dict[str, Any]) -> list[str]:
    """R2 of each kind of knowledge, and of each column of a table."""
    rows = _knowledge_rows(record)
    if not rows:
        return []
    lines = ["How much of what it learnt the head reads off molecules that were held out, R2 of the ranks:", ""]
    lines += [
        "| | columns | median | 80 % of them |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    for name in record.get("tables", {}):
        values = record["knowledge_r2"].get(name, {})
        lines += [f"| {name} | R2 |", "|---|---|"]
        lines += [f"| {column} | {'-' if value is None else f'{value:.2f}'} |" for column, value in values.items()]
        lines.append("")
    return lines


def card(record: dict[str, Any]) -> str:
    """The model card, as Markdown."""
    llm, corpus = record["llm"], record["corpus"]
    counts = (f"{name.replace('_', ' ')} {value:,}" for name, value in corpus.items() if isinstance(value, int))
    rows = [
        ("LLM", f"{llm['name']} {llm['hub_id']}".strip()),
        ("layers", f"the first {record['layers']}" if record["layers"] else "all"),
        ("corpus", f"{corpus['name']}, SHA-256 {corpus['sha256']}"),
        ("molecules", ", ".join(counts)),
        ("left out as tested were those of", ", ".join(corpus["tested"]) or "no dataset"),
        *(
            (f"table {name}", f"{table['molecules']:,} molecules, SHA-256 {table['sha256']}")
            for name, table in record.get("tables", {}).items()
        ),
        ("seconds", record["seconds"]),
        *((f"`{name}`", value) for name, value in record["config"].items()),
        *((f"version of {name}", value) for name, value in record["versions"].items()),
        ("commit", record["commit"]),
    ]
    return "\n".join(
        [
            "---",
            "library_name: peft",
            f"base_model: {llm['hub_id'] or llm['name']}",
            "---",
            "",
            f"# LoRA adapter for {llm['name']}, fine-tuned on {corpus['name']}",
            "",
            "Made by `kflm2 finetune`; its hidden states describe molecules given as SMILES.",
            "",
            *_metric_table(record),
            *_knowledge_table(record),
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
        ]
    )


def _metric_table(record: dict[str, Any]) -> list[str]:
    if "judged" not in record:
        return ["It was not evaluated.", ""]
    rows = (f"| {name} | {before} | {after} |" for name, before, after in _metric_rows(record["judged"]))
    return ["| | before | after |", "|---|---|---|", *rows, "", _note_on_layers(record)]


@styled
def draw_losses(losses: Path, picture: Path) -> None:
    """Plot the losses over the steps, as a moving average over a fiftieth of the steps.

    Args:
        losses: losses.csv, with a column `step` and one column per loss.
        picture: path of the plot.
    """
    with losses.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(5.6, 3.6))
    axis = figure.subplots()
    for name in [key for key in rows[0] if key != "step"]:
        # of a table that has few molecules of the corpus, no step may have had one
        points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        window = max(1, len(values) // 50)
        smoothed = torch.tensor(values).unfold(0, window, 1).mean(dim=1)
        label = "next token, nats" if name == "next token" else f"{name}, squared error (ranks, sd 1)"
        axis.plot(steps[window - 1 :], smoothed.tolist(), label=label)
    use_log_scale(axis)
    axis.set(xlabel="step", ylabel="loss")
    axis.legend()
    save_figure(figure, picture)
