"""An ablation: what each view of a molecule adds, and whether the LLM adds more than one with random weights."""

from itertools import combinations
from typing import Any

from kflm2.config.ablate import AblateConfig
from kflm2.device import choose_device
from kflm2.featurize.descriptors import without
from kflm2.llm.registry import AUTO, PLACEBO
from kflm2.stages.compare import stage as compare
from kflm2.stages.train.prepared import find_source
from kflm2.stages.train.stage import run_missing

_SHORT = {"states": "LLM", "graph": "graph", "descriptors": "descriptors", "covariates": "covariates"}


def variants(config: AblateConfig) -> dict[str, dict[str, Any]]:
    """Name -> changed settings, of every choice of views.

    Where the LLM is read alone, and where everything is, there are two more: the LLM before stage 1 (when an adapter
    would be read), and one with random weights, the placebo. All of them are read at the same layers. Of xTB's numbers,
    where they are read, and of the ridge on them, what each adds to everything else.
    """
    all_views = config.pipeline_views
    source = find_source(config, choose_device(config.device)) if "states" in all_views else None
    no_ridge = {"baseline_model": "none"} if config.baseline_model != "none" else {}
    # what the LLM was taught goes with the LLM, and the ridge with the descriptors on which it regresses
    untaught = {}
    if "taught" in config.descriptors:
        untaught = {"descriptors": without(config.descriptors, "taught"), **no_ridge}
    changes: dict[str, dict[str, Any]] = {}
    for size in range(1, len(all_views) + 1):
        for views in combinations(all_views, size):
            if untaught.get("descriptors") == "none" and "descriptors" in views and "states" not in views:
                continue  # without the LLM there are none
            name = "all" if size == len(all_views) else "+".join(_SHORT[view] for view in views)
            changes[name] = {"views": views} if size < len(all_views) else {}
            if "descriptors" not in views:
                changes[name] |= no_ridge
            if source is None or "states" not in views:
                changes[name] |= untaught
                continue
            # an adapter may cut the LLM, and a word such as last would be another layer without it
            changes[name]["layers"] = ",".join(map(str, source.layers))
            if size in (1, len(all_views)):
                if source.adapter is not None:
                    changes[f"{name}, untaught LLM"] = {**changes[name], **untaught, "adapter": "none"}
                base = source.name if config.llm == AUTO else config.llm
                placebo = {"adapter": "none", "llm": PLACEBO + base}
                changes[f"{name}, random LLM"] = {**changes[name], **untaught, **placebo}
    whole = changes["all"]
    if no_ridge:
        changes["all, without ridge"] = {**whole, **no_ridge}
    for part, words in (("xtb", "all, without xTB"), ("taught", "all, without what the LLM was taught")):
        if part in config.descriptors and (plain := without(config.descriptors, part)) != "none":
            changes[words] = {**whole, **no_ridge, "descriptors": plain}
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
    settings = {
        name: config.train_config(**changes, name=f"{config.model}-{name.replace(', ', '-').replace(' ', '_')}")
        for name, changes in variants(config).items()
    }
    for variant in settings.values():
        variant.check()  # what cannot work should show now, not after hours
    for name, variant in settings.items():
        print(f"\n{name}", flush=True)
        # the LLM comes first: a molecule longer than its context is left out everywhere, or splits would differ
        folder, molecules = run_missing(variant, molecules)
        folders[name] = str(folder)
    runs = config.resolved().runs or 0
    compare.run(config.compare_config(folders), range(config.seed, config.seed + runs))
