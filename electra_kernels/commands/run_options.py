"""The options of ``electra-kernels pretrain``, and what follows from them before the data is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from electra_kernels.data.packing import SHORTEST_ROW
from electra_kernels.data.token_cache import TokenCache
from electra_kernels.errors import UserError
from electra_kernels.models import electra_config
from electra_kernels.training.continuation import Start
from electra_kernels.training.objectives import OBJECTIVES, Objective, ReplacedTokenDetection
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from electra_kernels.training.recipe import RECIPES, Recipe
from electra_kernels.training.schedule import Schedule, one_phase


@dataclass(frozen=True)
class Options:
    """The options of ``electra-kernels pretrain``; None leaves a number to the configuration.

    The first group decides the result of a run, together with the data. The second decides only how it is computed.
    """

    output: Path
    text: Sequence[Path] = ()
    data: Path | None = None
    config: str = "demo"
    objective: str = "replaced_tokens"
    start: Path | None = None
    generator: Path | None = None
    discriminator: Path | None = None
    embeddings: str = "shared"
    whole_word_masking: bool = False
    max_ngram: int = 1
    vocabulary: Path | None = None
    vocab_size: int | None = None
    cased: bool = False
    keep_accents: bool | None = None
    wrapped: bool = False
    field: str = "text"
    minutes: float | None = None
    steps: int | None = None
    phases: Schedule | None = None
    batch_size: int | None = None
    dropout: float | None = None
    learning_rate: float | None = None
    muon_learning_rate: float | None = None
    pack: bool = True
    seed: int = 0

    micro_batch: int | None = None
    shard: bool = False
    checkpoint_layers: bool = False
    compile: bool = False
    vocab_parallel: int = 1
    threads: int | None = None
    save_minutes: float = 30.0
    resume: str = "auto"
    pair_minutes: float = 0.0


def check_options(options: Options) -> None:
    """Refuse options that do not go together, and options that would have no effect.

    Raises:
        UserError: an option should be left out, or has another fault that shows before the data is read.
    """
    objective, start = objective_class(options), start_of(options)
    is_pair = issubclass(objective, TransformersPair)
    prepared = ("vocabulary", "vocab_size", "cased", "keep_accents", "wrapped", "field")
    useless = [
        ("embeddings", not is_pair, "on the reference models"),
        ("dropout", is_pair, "on models of transformers, whose config.json has it"),
        ("vocab_size", start is not None, "with --from, whose vocabulary is used"),
        ("whole_word_masking", not objective.masks, f"on the objective {objective.name}"),
        ("vocab_parallel", not objective.shares_vocabulary, f"on the objective {objective.name}"),
        ("max_ngram", not objective.masks, f"on the objective {objective.name}"),
        *((name, options.data is not None, "on --data, which is prepared already") for name in prepared),
    ]
    for name, is_useless, reason in useless:
        if is_useless and getattr(options, name) != getattr(Options, name):
            raise UserError(f"--{name.replace('_', '-')} has no effect {reason}, should be left out")


def default_configuration(start: Path | None) -> str:
    """The value of --config where it is left out."""
    return "demo" if start is None else Start.open(start).recipe


def start_of(options: Options) -> Start | None:
    """The folder of --from.

    Raises:
        UserError: it cannot be used, or this run would replace it.
    """
    if options.start is None:
        return None
    own = (options.output / "model").resolve()
    if own in (options.start.resolve(), *options.start.resolve().parents):
        raise UserError(f"--from {options.start} would be replaced by this run, choose another --output")
    return Start.open(options.start)


def objective_class(options: Options) -> type[Objective]:
    """The class of the objective.

    Raises:
        UserError: the name is unknown, or an option does not go with it.
    """
    if (options.generator is None) != (options.discriminator is None):
        raise UserError("--generator and --discriminator should be given together")
    if options.objective not in OBJECTIVES:
        raise UserError(f"--objective is {options.objective}, should be one of {', '.join(OBJECTIVES)}")
    if options.start is not None and options.generator is not None:
        raise UserError("--generator and --discriminator should be left out with --from")
    start = start_of(options)
    is_pair = options.generator is not None or (start is not None and start.encoder is None)
    objective = TransformersPair if is_pair else OBJECTIVES[options.objective]
    if is_pair and options.objective != ReplacedTokenDetection.name:
        reason = (
            "with --generator"
            if start is None
            else f"with --from {start.folder}, whose {start.config.get('model_type')} only transformers has"
        )
        raise UserError(f"--objective is {options.objective}, should be left out {reason}")
    if options.pair_minutes and not issubclass(objective, ReplacedTokenDetection):
        raise UserError(
            f"--pair-minutes is given with the objective {objective.name}, should be left out: the pair is part of "
            "the report on replaced tokens"
        )
    return objective


def recipe_of(options: Options) -> Recipe:
    """The recipe of the configuration with the given numbers; a given rate of AdamW alone turns Muon off."""
    recipe = RECIPES[options.config]
    rates: dict[str, Any] = {}
    if options.learning_rate or options.muon_learning_rate:
        rates = {
            "learning_rate": options.learning_rate or recipe.learning_rate,
            "muon_learning_rate": options.muon_learning_rate,
        }
    return replace(recipe, batch_size=options.batch_size or recipe.batch_size, **rates)


def row_lengths(options: Options, recipe: Recipe) -> list[int]:
    """The row lengths of the phases, each once.

    Raises:
        UserError: a length is below the smallest, or above the number of positions that the model has.
    """
    lengths = list(dict.fromkeys(phase.length for phase in asked_schedule(options, recipe).phases))
    start = start_of(options)
    encoder = electra_config(options.config, vocab_size=1, mask_token_id=0).discriminator
    if start is not None and start.encoder is not None:
        encoder = start.encoder
    is_limited = not issubclass(objective_class(options), TransformersPair) and encoder.family == "electra"
    most = encoder.max_position_embeddings if is_limited else 2**31 - 1
    for length in lengths:
        if not SHORTEST_ROW + 2 <= length <= most:
            raise UserError(f"--phases has rows of {length} tokens, should be {SHORTEST_ROW + 2} to {most}")
    return lengths


def asked_schedule(options: Options, recipe: Recipe) -> Schedule:
    """The schedule as it was asked for, before ``minutes`` are turned into steps."""
    return options.phases or one_phase(recipe.length, options.steps or recipe.steps)


def identity_of(options: Options, recipe: Recipe, cache: TokenCache) -> dict[str, Any]:
    """Everything that decides the result of a run, in the words of the command line."""
    return {
        "--config": options.config,
        "--objective": options.objective,
        "--from": None if options.start is None else str(options.start),
        "--generator": None if options.generator is None else str(options.generator),
        "--discriminator": None if options.discriminator is None else str(options.discriminator),
        "--embeddings": options.embeddings,
        "--whole-word-masking": options.whole_word_masking,
        "--max-ngram": options.max_ngram,
        "--minutes": options.minutes,
        "steps": str(asked_schedule(options, recipe)),
        "--batch-size": recipe.batch_size,
        "--dropout": options.dropout,
        "--learning-rate": recipe.learning_rate,
        "--muon-learning-rate": recipe.muon_learning_rate,
        "--seed": options.seed,
        "packing": options.pack,
        "the data": cache.meta["digest"],
    }
