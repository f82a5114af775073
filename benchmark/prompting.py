"""Speed of prompting the embedded LLM (stage 3) on the CPU: batches of prompts, and the original's one by one.

    python benchmark/prompting.py

Both prompt the same LLM (all layers, float32) with the paper's prompts for the same molecules of SAMPL, decode
greedily, and stop after the same number of new tokens. The original's loop has no grammar; ours is measured without and
with it. The time includes tokenisation, but not loading. One line per round; in each round they run in turn, so that
other load affects all of them; then the median of each column. Columns:

    original   prompts/s of `generate` on one prompt after another
    ours       prompts/s of kflm2's Prompter, 64 prompts of similar length at a time
    ratio      ours / original
    grammar    as ours, with the number grammar
    ratio      grammar / original
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from kflm2 import resources
from kflm2.data import datasets
from kflm2.data.reading import read_table
from kflm2.llm import checkpoints, registry, resolve
from kflm2.llm.decoding import load_decoder
from kflm2.llm.prompter import Prompter
from kflm2.stages.prompt.templates import read_prompt_spec

NEW_TOKENS = 8
"""Maximum tokens of an answer under the grammar with two digits and two decimals."""
NUMBER = (2, 2)


def prompt_one_by_one(prompter: Prompter, prompts: list[str]) -> list[str]:
    """Texts of the answers, one prompt per call of `generate`."""
    texts = []
    for prompt in prompts:
        inputs = prompter.tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            out = prompter.llm.generate(  # type: ignore[operator]
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=prompter.tokenizer.eos_token_id
            )
        texts.append(str(prompter.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)))
    return texts


def seconds(call: Callable[[], list[str]]) -> tuple[float, list[str]]:
    """Time of one call, and its result."""
    start = time.perf_counter()
    texts = call()
    return time.perf_counter() - start, texts


def main() -> None:
    """Load the LLM, measure the variants in turn, print."""
    parser = argparse.ArgumentParser(description="Speed of prompting the embedded LLM, on the CPU.")
    parser.add_argument("--molecules", type=int, default=128, help="first molecules of SAMPL (128)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each variant (3)")
    options = parser.parse_args()
    dataset = datasets.find("SAMPL")
    prompt_spec = read_prompt_spec(resources.packaged("prompts.toml"), "SAMPL", dataset.targets[0], dataset.task)
    prompts = [prompt_spec.prompt(smiles, "plain") for smiles in read_table(dataset).smiles[: options.molecules]]
    llm, tokenizer = load_decoder(checkpoints.checkpoint_folder(resolve.find(registry.EMBEDDED)), torch.device("cpu"))
    prompter = Prompter(llm.eval(), tokenizer)

    def ours() -> list[str]:
        return [samples[0] for samples in prompter.answers(prompts, most_tokens=NEW_TOKENS)]

    def grammar() -> list[str]:
        return [samples[0] for samples in prompter.answers(prompts, NUMBER)]

    prompt_one_by_one(prompter, prompts[:2])
    prompter.answers(prompts[:2], NUMBER)
    print(
        f"\n{registry.EMBEDDED}, {len(prompts)} prompts, {NEW_TOKENS} new tokens at most, float32,"
        f" torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print("            original      ours   ratio   grammar   ratio")
    print("             prompts / s                            ")
    rounds = []
    for number in range(1, options.rounds + 1):
        original_time, expected = seconds(lambda: prompt_one_by_one(prompter, prompts))
        our_time, texts = seconds(ours)
        grammar_time, _ = seconds(grammar)
        same = sum(text == expected_text for text, expected_text in zip(texts, expected, strict=True))
        rounds.append(
            (
                len(prompts) / original_time,
                len(prompts) / our_time,
                original_time / our_time,
                len(prompts) / grammar_time,
                original_time / grammar_time,
            )
        )
        print_line(f"round {number}", rounds[-1])
    print_line("median", tuple(statistics.median(column) for column in zip(*rounds, strict=True)))
    print(f"\nanswers that are the same text both ways: {same} of {len(prompts)}")


def print_line(title: str, columns: tuple[float, ...]) -> None:
    """One line of the table; the columns are those of the heading."""
    original, ours, ratio, grammar, grammar_ratio = columns
    print(f"{title:9}{original:11.1f}{ours:10.1f}{ratio:7.2f}x{grammar:9.1f}{grammar_ratio:7.2f}x", flush=True)


if __name__ == "__main__":
    main()
