"""The parts of a pre-training run: its data, its rows, its objective."""

from dataclasses import replace
from pathlib import Path

import torch

from electra_kernels.commands.progress import Progress
from electra_kernels.commands.run_options import (
    Options,
    objective_class,
)
from electra_kernels.data.packing import Plan, plan_rows
from electra_kernels.data.prepare import prepare
from electra_kernels.data.rows import PackedRows
from electra_kernels.data.token_cache import TokenCache, open_cache
from electra_kernels.errors import AgreedError
from electra_kernels.models import Encoder, electra_config
from electra_kernels.training.objectives import (
    Objective,
    make_objective,
)
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from electra_kernels.training.recipe import RECIPES, Recipe
from electra_kernels.training.world import World


def token_cache_of(options: Options, world: World, progress: Progress) -> TokenCache:
    """The prepared data; rank 0 prepares a text into OUTPUT/data first."""
    folder = options.data
    if folder is None:
        folder = options.output / "data"
        size = options.vocab_size or RECIPES[options.config].vocab_size
        world.on_main(lambda: _prepared(options, folder, size, progress))
    cache = world.everywhere(lambda: open_cache(folder))
    if not cache.counts.any():
        raise AgreedError("too little text: the training documents have no word of the vocabulary")
    return cache


def _prepared(options: Options, folder: Path, vocab_size: int, progress: Progress) -> None:
    with progress.preparing() as show:
        prepare(
            options.text,
            folder,
            vocabulary=options.vocabulary,
            vocab_size=vocab_size,
            cased=options.cased,
            keep_accents=options.keep_accents,
            wrapped=options.wrapped,
            field=options.field,
            log=progress.log,
            progress=show,
        )


def packed_rows(options: Options, cache: TokenCache, length: int, world: World) -> PackedRows:
    """The training rows of one length; rank 0 plans them and the others read its plan."""
    pack = options.pack and objective_class(options).packs

    def plan() -> Plan:
        return plan_rows(cache, length, seed=options.seed, pack=pack, folder=options.output / "plans")

    world.on_main(lambda: bool(plan()))
    return PackedRows(cache, world.everywhere(plan))


def new_objective(options: Options, recipe: Recipe, cache: TokenCache, most_pieces: int) -> Objective:
    """A new objective on the CPU; the seed decides its weights."""
    torch.manual_seed(options.seed)
    if options.generator is not None and options.discriminator is not None:
        return TransformersPair(
            options.generator,
            options.discriminator,
            cache.tokenizer,
            cache.special_ids,
            embeddings=options.embeddings,
        )
    config = electra_config(options.config, vocab_size=cache.vocab_size, mask_token_id=cache.special_ids.mask)
    config = replace(config, whole_word_masking=options.whole_word_masking, max_ngram=options.max_ngram)
    if options.dropout is not None:
        config = config.with_dropout(options.dropout)
    objective = make_objective(options.objective, config, cache.facts, recipe)
    for part in objective.modules():
        if isinstance(part, Encoder):
            part.max_pieces = most_pieces
    return objective
