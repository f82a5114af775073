"""The thin scripts: each is one call, of what its name says."""

import ast
from pathlib import Path

import pytest

from kflm2.config.pipelines import PIPELINES
from kflm2.data.datasets import DATASETS
from kflm2.llm.registry import LLMS

FOLDER = Path(__file__).parents[3] / "task_training"


def test_there_is_a_script_for_every_pipeline_and_dataset() -> None:
    expected = {f"train_{model}_{dataset}.py" for model in PIPELINES for dataset in DATASETS}
    assert {path.name for path in FOLDER.glob("*.py")} == expected


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_is_one_call_of_what_its_name_says(path: Path) -> None:
    about, imported, guarded = ast.parse(path.read_text()).body
    assert isinstance(about, ast.Expr)
    assert ast.unparse(imported) == "from kflm2.cli import train"
    model, _, dataset = path.stem.removeprefix("train_").rpartition("_")
    call = f"train.from_command_line(dataset='{dataset}', model='{model}')"
    assert ast.unparse(guarded) == f"if __name__ == '__main__':\n    {call}"


LLM_OF = {
    "DeepSeek_R1_1.5B_Finetuning_LoRA": "auto",
    "DeepSeek_R1_7B_Finetuning_LoRA": "DS_7B",
    "DeepSeek_R1_8B_Finetuning_LoRA": "DS_8B",
    "ChemDFM_8B_Finetuning_LoRA": "ChemDFM",
    "SmolLM2_135M_Finetuning_LoRA": "SmolLM2_135M",
}


def test_there_is_a_script_of_stage_1_for_every_llm() -> None:
    folder = FOLDER.parent / "fine_tune"
    assert {path.stem for path in folder.glob("*.py")} == set(LLM_OF)
    assert set(LLM_OF.values()) == {"auto", *LLMS} - {"DS_1.5B"}
    for path in folder.glob("*.py"):
        about, imported, guarded = ast.parse(path.read_text()).body
        assert isinstance(about, ast.Expr)
        assert ast.unparse(imported) == "from kflm2.cli import finetune"
        call = f"finetune.from_command_line(llm='{LLM_OF[path.stem]}')"
        assert ast.unparse(guarded) == f"if __name__ == '__main__':\n    {call}"


def test_the_scripts_of_stage_3_ask_for_a_number_and_for_a_class() -> None:
    folder = FOLDER.parent / "prompt"
    expected = {
        f"fine_tune_prompt_{by}_{kind}": (dataset, kind, by)
        for by in ("unsloth", "DS1.5B")
        for dataset, kind in (("SAMPL", "regression"), ("BACE", "classification"))
    }
    assert {path.stem for path in folder.glob("*.py")} == set(expected)
    for name, (dataset, kind, by) in expected.items():
        about, imported, guarded = ast.parse((folder / f"{name}.py").read_text()).body
        assert isinstance(about, ast.Expr)
        assert ast.unparse(imported) == "from kflm2.cli import prompt"
        more = ", unsloth=True" if by == "unsloth" else ""
        call = f"prompt.from_command_line(dataset='{dataset}', task='{kind}', llm='auto'{more})"
        assert ast.unparse(guarded) == f"if __name__ == '__main__':\n    {call}"
