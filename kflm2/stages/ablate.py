"""An ablation: what each view of a molecule adds, and whether the LLM adds more than one that never learnt anything."""

from itertools import combinations
from typing import Any

from kflm2.config.ablate import AblateConfig
from kflm2.llm import registry as llms
from kflm2.stages.compare import stage as comparing
from kflm2.stages.train import experiment, stage

_SHORT = {"states": "LLM", "graph": "graph", "descriptors": "descriptors"}


def variants(config: AblateConfig) -> dict[str, dict[str, Any]]:
    """Name -> changed settings, of every choice of views.

    Where the LLM is read alone, and where everything is, there are two more: the LLM before stage 1 (when an adapter
    would be read), and one with random weights, the placebo. All of them are read at the same layers.
    """
    own = config.own_views
    source = experiment.find_source(config) if "states" in own else None
    found: dict[str, dict[str, Any]] = {}
    for size in range(1, len(own) + 1):
        for views in combinations(own, size):
            name = "all" if size == len(own) else "+".join(_SHORT[view] for view in views)
            found[name] = {"views": views} if size < len(own) else {}
            if source is None or "states" not in views:
                continue
            # an adapter may cut the LLM, and a word such as last would be another layer without it
            found[name]["layers"] = ",".join(map(str, source.layers))
            if size in (1, len(own)):
                if source.adapter is not None:
                    found[f"{name}, untaught LLM"] = {**found[name], "adapter": "none"}
                base = source.name if config.llm == llms.AUTO else config.llm
                found[f"{name}, random LLM"] = {**found[name], "adapter": "none", "llm": llms.PLACEBO + base}
    return found


def run(config: AblateConfig) -> None:
    """Train every variant on the same splits, as far as it was not, and compare them all.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the input cannot be used.
    """
    folders: dict[str, str] = {}
    molecules = None
    for name, changes in variants(config).items():
        folder = f"{config.model}-{name.replace(', ', '-').replace(' ', '_')}"
        print(f"\n{name}", flush=True)
        # the LLM comes first: a molecule longer than its context is left out everywhere, or splits would differ
        done, molecules = stage.run_missing(config.of_stage_2(**changes, name=folder), molecules)
        folders[name] = str(done)
    runs = config.resolved().runs or 0
    comparing.run(config.compare(folders), range(config.seed, config.seed + runs))
