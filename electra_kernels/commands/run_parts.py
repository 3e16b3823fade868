"""The parts of a pre-training run: its data, its rows, its objective."""

from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import pad

from electra_kernels.commands.progress import Progress
from electra_kernels.commands.run_options import (
    Options,
    objective_class,
    start_of,
)
from electra_kernels.data.packing import Plan, plan_rows
from electra_kernels.data.prepare import prepare
from electra_kernels.data.rows import PackedRows
from electra_kernels.data.token_cache import TokenCache, open_cache
from electra_kernels.errors import AgreedError
from electra_kernels.models import Encoder, electra_config
from electra_kernels.training.continuation import Start, load_weights
from electra_kernels.training.objectives import (
    Objective,
    make_objective,
)
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from electra_kernels.training.recipe import RECIPES, Recipe
from electra_kernels.training.world import World


def token_cache_of(options: Options, world: World, progress: Progress) -> TokenCache:
    """The prepared data; rank 0 prepares a text into OUTPUT/data first."""
    folder, start = options.data, start_of(options)
    if folder is None:
        folder = options.output / "data"
        size = options.vocab_size or RECIPES[options.config].vocab_size
        vocabulary = options.vocabulary or (start.vocabulary if start else None)
        if start and not vocabulary:
            raise AgreedError(
                f"--from {start.folder}: there is no tokenizer.json or vocab.txt, give its vocabulary by --vocabulary"
            )
        world.on_main(lambda: _prepared(options, folder, vocabulary, size, progress))
    cache = world.everywhere(lambda: open_cache(folder))
    if not cache.counts.any():
        raise AgreedError("too little text: the training documents have no word of the vocabulary")
    if start:
        world.everywhere(lambda: start.check_vocabulary(cache.tokenizer))
    return cache


def _prepared(
    options: Options, folder: Path, vocabulary: Path | None, vocab_size: int, progress: Progress
) -> None:
    with progress.preparing() as show:
        prepare(
            options.text,
            folder,
            vocabulary=vocabulary,
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
    start = start_of(options)
    if issubclass(objective_class(options), TransformersPair):
        return _pair(options, start, cache)
    mask, facts = cache.special_ids.mask, cache.facts
    model = start.electra(mask) if start else None
    config = (
        model.config
        if model
        else electra_config(options.config, vocab_size=cache.vocab_size, mask_token_id=mask)
    )
    unused = config.discriminator.vocab_size - cache.vocab_size  # rows of a padded embedding
    facts = replace(facts, counts=pad(facts.counts, (0, unused)))
    config = replace(config, whole_word_masking=options.whole_word_masking, max_ngram=options.max_ngram)
    if options.dropout is not None:
        config = config.with_dropout(options.dropout)
    objective = make_objective(options.objective, config, facts, recipe)
    if model:
        load_weights(objective, model)
    for part in objective.modules():
        if isinstance(part, Encoder):
            part.max_pieces = most_pieces
    return objective


def _pair(options: Options, start: Start | None, cache: TokenCache) -> TransformersPair:
    """The models of --generator and --discriminator, or those of --from that only transformers has."""
    if start is not None:
        generator, discriminator = start.generator or start.discriminator, start.discriminator
    else:
        assert options.generator is not None
        assert options.discriminator is not None
        generator, discriminator = options.generator, options.discriminator
    return TransformersPair(
        generator,
        discriminator,
        cache.tokenizer,
        cache.special_ids,
        embeddings=options.embeddings,
        halve_generator=start is not None and start.generator is None,
    )
