"""An ablation: what each view of a molecule adds, and whether the LLM adds more than one with random weights."""

from itertools import combinations
from typing import Any

from kflm2.config.ablate import AblateConfig
from kflm2.device import choose_device
from kflm2.featurize.descriptors import without
from kflm2.llm.registry import AUTO, PLACEBO
from kflm2.stages.compare import stage as compare
from kflm2.stages.train.experiment import find_source
from kflm2.stages.train.stage import run_missing

_SHORT = {"states": "LLM", "graph": "graph", "descriptors": "descriptors"}


def variants(config: AblateConfig) -> dict[str, dict[str, Any]]:
    """Name -> changed settings, of every choice of views.

    Where the LLM is read alone, and where everything is, there are two more: the LLM before stage 1 (when an adapter
    would be read), and one with random weights, the placebo. All of them are read at the same layers. Of xTB's numbers,
    where they are read, and of the ridge on them, what each adds to everything else.
    """
    all_views = config.pipeline_views
    source = find_source(config, choose_device(config.device)) if "states" in all_views else None
    changes: dict[str, dict[str, Any]] = {}
    for size in range(1, len(all_views) + 1):
        for views in combinations(all_views, size):
            name = "all" if size == len(all_views) else "+".join(_SHORT[view] for view in views)
            changes[name] = {"views": views} if size < len(all_views) else {}
            if "states" not in views:
                changes[name]["descriptors"] = without(config.descriptors, "taught")
            if config.baseline_model != "none" and "descriptors" not in views:
                changes[name]["baseline_model"] = "none"  # the ridge reads descriptors
            if source is None or "states" not in views:
                continue
            # an adapter may cut the LLM, and a word such as last would be another layer without it
            changes[name]["layers"] = ",".join(map(str, source.layers))
            if size in (1, len(all_views)):
                if source.adapter is not None:
                    changes[f"{name}, untaught LLM"] = {**changes[name], "adapter": "none"}
                base = source.name if config.llm == AUTO else config.llm
                changes[f"{name}, random LLM"] = {**changes[name], "adapter": "none", "llm": PLACEBO + base}
    whole = changes["all"]
    if config.baseline_model != "none":
        changes["all, without ridge"] = {**whole, "baseline_model": "none"}
    if "xtb" in config.descriptors and (plain := without(config.descriptors, "xtb")) != "none":
        changes["all, without xTB"] = {**whole, "baseline_model": "none", "descriptors": plain}
    return changes


def run(config: AblateConfig) -> None:
    """Train every variant on the same splits, unless its runs are there already, and compare them all.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the input cannot be used.
    """
    folders: dict[str, str] = {}
    molecules = None
    for name, changes in variants(config).items():
        folder_name = f"{config.model}-{name.replace(', ', '-').replace(' ', '_')}"
        print(f"\n{name}", flush=True)
        # the LLM comes first: a molecule longer than its context is left out everywhere, or splits would differ
        folder, molecules = run_missing(config.train_config(**changes, name=folder_name), molecules)
        folders[name] = str(folder)
    runs = config.resolved().runs or 0
    compare.run(config.compare_config(folders), range(config.seed, config.seed + runs))
