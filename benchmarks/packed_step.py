"""``python -m benchmarks.packed_step``: tokens per second of the demo's training step, without and with packed rows.

Two trainers of the same model take steps in turns on one thread, on the demo's text. A step has 4,096 cells; only cells
without padding count as tokens.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.rows import Store, store, timed_plan
from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.facts import TextFacts, text_facts
from electra_kernels.data.rows import PackedRows, encode_rows, unigram_counts
from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.models import electra_config
from electra_kernels.training.objectives import ReplacedTokenDetection
from electra_kernels.training.recipe import RECIPES
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Trainer

_CELLS = 4_096
_WARM_UP = 3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packed_step", description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="steps of each trainer (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    documents = documentation_text()
    tokenizer = train_vocabulary(documents, 8_000)
    counts = unigram_counts(encode_rows(documents, tokenizer, 128), tokenizer.get_vocab_size())
    facts = text_facts(tokenizer, counts)
    print(f"{'T':>5}  {'rows':10}{'padding':>9}{'ms a step':>11}{'tokens/s':>10}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        text = store(documents, tokenizer, Path(folder), 1)
        for length in (128, 512, 1024):
            show(text, facts, length, options.steps)


def show(text: Store, facts: TextFacts, length: int, steps: int) -> None:
    plans = {name: timed_plan(text, length, pack=name == "packed")[0] for name in ("unpacked", "packed")}
    trainers = {name: make_trainer(facts, length) for name in plans}
    loaders = {name: trainers[name].loader(PackedRows(text, plan)) for name, plan in plans.items()}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    tokens = dict.fromkeys(plans, 0)
    with closing(loaders["unpacked"]), closing(loaders["packed"]):
        for step in range(_WARM_UP + steps):
            for name, trainer in trainers.items():
                batch = next(loaders[name])
                begin = time.perf_counter()
                trainer.step(batch)
                if step >= _WARM_UP:
                    seconds[name].append(time.perf_counter() - begin)
                    tokens[name] += int(batch.attention_mask.sum())
    speeds = {name: tokens[name] / steps / statistics.median(seconds[name]) for name in plans}
    for name, plan in plans.items():
        milliseconds = 1e3 * statistics.median(seconds[name])
        ratio = speeds[name] / speeds["unpacked"]
        print(
            f"{length:5}  {name:10}{plan.padding:9.2%}{milliseconds:11.1f}{speeds[name]:10,.0f}{ratio:7.2f}",
            flush=True,
        )


def make_trainer(facts: TextFacts, length: int) -> Trainer:
    recipe = replace(RECIPES["demo"], batch_size=_CELLS // length)
    torch.manual_seed(0)
    config = electra_config("demo", vocab_size=len(facts.counts), mask_token_id=facts.special_ids.mask)
    return Trainer(ReplacedTokenDetection(config, facts), recipe, one_phase(length, 1_000), seed=0)


if __name__ == "__main__":
    main()
