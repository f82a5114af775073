"""The command line, and the stages for thin scripts."""

from kflm2.cli.stages import (
    ablate,
    compare,
    datasets,
    datasets_audit,
    datasets_get,
    explain,
    finetune,
    llms,
    predict,
    prompt,
    report,
    train,
    tune,
)

__all__ = [
    "ablate",
    "compare",
    "datasets",
    "datasets_audit",
    "datasets_get",
    "explain",
    "finetune",
    "llms",
    "predict",
    "prompt",
    "report",
    "train",
    "tune",
]
