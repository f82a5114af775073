"""Make embedded_llm.json: token ids and states of the embedded LLM by transformers alone, one string at a time.

    python tests/golden/make_embedded_llm.py

The states are the mean over tokens of layer 12 (before any norm) and of the last layer, side by side, every 37th
value. Tolerance 2e-3: another CPU adds in another order, and the states reach 1e3 before the norm.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModel, AutoTokenizer

from kflm2.files import write_json
from kflm2.llm import checkpoints, registry

TEXTS = ["CC(=O)Oc1ccccc1C(=O)O", "C1CC2 (10) 345 67", " C[C@H](N)C(=O)O", "logS = -3.25 mol/L"]
SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "O", "C[N+](C)(C)CC([O-])=O"]
EVERY = 37


def main() -> None:
    """Run the LLM and write the file."""
    folder = checkpoints.checkpoint_folder(registry.LLMS[registry.EMBEDDED])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    states = {}
    for text in SMILES:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        row = torch.cat([hidden[12], hidden[-1]], dim=-1)[0].mean(dim=0)
        states[text] = [float(f"{value:.6g}") for value in row[::EVERY].tolist()]
    golden = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "token_ids": {text: tokenizer(text)["input_ids"] for text in TEXTS},
        "every": EVERY,
        "states": states,
    }
    path = Path(__file__).with_name("embedded_llm.json")
    write_json(path, golden)
    print(path, json.dumps(golden["versions"]))


if __name__ == "__main__":
    main()
