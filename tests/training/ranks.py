"""Trains one small model in several ways that must agree: over ranks, micro-batches, DDP and FSDP2.

The tests start this file once for each number of ranks. Every process trains all cases of that number, and rank 0
saves the weights of each: ``python tests/training/ranks.py RANK RANKS PORT FOLDER CASE...``. A case is
``micro_batch-wrapper-optimizer``, for example ``2-ddp-muon``, and maybe a word: ``alone`` begins with the generator
alone, ``vocabulary`` lets the ranks share the output layer, ``half`` saves a checkpoint in the middle, ``from-2/fsdp``
continues from that of 2 ranks with FSDP2.
"""

import os
import random
import sys
from pathlib import Path

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from electra_kernels.data.facts import text_facts
from electra_kernels.data.rows import encode_rows, unigram_counts
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.models import ElectraConfig, EncoderConfig
from electra_kernels.training import optimizers
from electra_kernels.training.checkpoints import Checkpoints
from electra_kernels.training.objectives import ReplacedTokenDetection
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Execution, Trainer
from electra_kernels.training.world import World, join_world

STEPS, LENGTH = 8, 16
WORDS = "the old cat saw a small dog near our house while rain fell on every green hill of that land".split()


def make_data():
    rng = random.Random(0)
    documents = [
        Document(f"{n}", tuple(" ".join(rng.choices(WORDS, k=30)) for _ in range(4))) for n in range(20)
    ]
    tokenizer = train_vocabulary(documents, 100)
    rows = encode_rows(documents, tokenizer, LENGTH)
    return rows, text_facts(tokenizer, unigram_counts(rows, tokenizer.get_vocab_size()))


def make_objective(facts, **options):
    size = len(facts.counts)
    discriminator = EncoderConfig(size, 16, 32, 2, 2, 64, dropout=0.0, max_position_embeddings=LENGTH)
    generator = EncoderConfig(size, 16, 16, 2, 2, 32, dropout=0.0, max_position_embeddings=LENGTH)
    torch.manual_seed(0)
    return ReplacedTokenDetection(
        ElectraConfig(discriminator, generator, facts.special_ids.mask), facts, **options
    )


def make_trainer(facts, world, micro_batch, wrapper, optimizer, vocab_parallel=1, **options):
    muon = 3e-3 if optimizer == "muon" else None
    recipe = Recipe(
        length=LENGTH,
        batch_size=8,
        learning_rate=1e-3,
        warmup=0.1,
        steps=STEPS,
        clip=1.0,
        muon_learning_rate=muon,
        **options,
    )
    trainer = Trainer(
        make_objective(facts, **options),
        recipe,
        one_phase(LENGTH, STEPS),
        seed=3,
        world=world,
        execution=Execution(micro_batch=micro_batch, shard=wrapper == "fsdp", vocab_parallel=vocab_parallel),
    )
    trainer.bfloat16 = False
    optimizers.has_native_bfloat16 = lambda device: False  # Muon in float32
    return trainer


def weights(trainer):
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(trainer.objective, options=options)


def train_case(case, data, world: World, folder: Path):
    rows, facts = data
    micro_batch, wrapper, optimizer, *rest = case.split("-")
    options = {"head_start": 0.5} if "alone" in rest else {}
    sharing = 2 if "vocabulary" in rest else 1
    trainer = make_trainer(facts, world, int(micro_batch), wrapper, optimizer, sharing, **options)
    if "half" in rest:
        save_half(trainer, rows, folder / f"{world.size}-{wrapper}")
        return
    if "from" in rest:
        path = folder / rest[-1].replace("/", "-") / f"step-{STEPS // 2}"
        assert Checkpoints(folder / "unused", world, print).restore(trainer, path)
    records = list(trainer.train([rows]))
    state = weights(trainer)
    if world.is_main:
        name = case.replace("/", "")
        torch.save({"weights": state, "metrics": records[-1].metrics}, folder / f"{world.size}-{name}.pt")


def save_half(trainer, rows, folder):
    """Save the state after half of the steps while the training goes on."""
    checkpoints = Checkpoints(folder, trainer.world, print)
    for _ in trainer.train([rows], lambda: trainer.position.step == STEPS // 2):
        checkpoints.save(trainer)
    list(trainer.train([rows]))
    assert checkpoints.finish()


def main():
    rank, ranks, port, folder, *cases = sys.argv[1:]
    os.environ |= {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    data = make_data()
    with join_world() as world:
        for case in cases:
            train_case(case, data, world, Path(folder))


if __name__ == "__main__":
    main()
