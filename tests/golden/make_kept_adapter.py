"""Make kept_adapter.json: states of the embedded LLM with the repository's adapter, by transformers and peft alone.

    python tests/golden/make_kept_adapter.py

The states are the mean over tokens of layer 12 (before any norm), every 37th value. Tolerance 2e-3: another CPU adds in
another order, and the states reach 1e3.
"""

import json
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from kflm2.files import write_json
from kflm2.llm import adapters, checkpoints, registry

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "O", "C[N+](C)(C)CC([O-])=O"]
EVERY = 37
LAYER = 12


def main() -> None:
    """Run the LLM with the adapter and write the file."""
    llm = registry.LLMS[registry.EMBEDDED]
    folder, adapter = checkpoints.checkpoint_folder(llm), adapters.default_adapter(llm)
    assert adapter is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # the whole LLM: the adapter has nothing for the layers above, which layer 12 does not see
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    states = {}
    for text in SMILES:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        states[text] = [float(f"{value:.6g}") for value in hidden[LAYER][0].mean(dim=0)[::EVERY].tolist()]
    versions = {"transformers": transformers.__version__, "peft": peft.__version__, "torch": torch.__version__}
    golden = {"versions": versions, "adapter": adapters.digest(adapter), "every": EVERY, "states": states}
    path = Path(__file__).with_name("kept_adapter.json")
    write_json(path, golden)
    print(path, json.dumps(versions))


if __name__ == "__main__":
    main()
