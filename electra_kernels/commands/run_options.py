"""The options of ``electra-kernels pretrain``, and what follows from them before the data is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from electra_kernels.data.token_cache import TokenCache
from electra_kernels.errors import UserError
from electra_kernels.training.objectives import OBJECTIVES, ReplacedTokenDetection
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
    pack: bool = True
    seed: int = 0

    micro_batch: int | None = None
    shard: bool = False
    checkpoint_layers: bool = False
    compile: bool = False
    threads: int | None = None
    save_minutes: float = 30.0
    resume: str = "auto"
    pair_minutes: float = 0.0


def check_objective(options: Options) -> None:
    if options.objective not in OBJECTIVES:
        raise UserError(f"--objective is {options.objective}, should be one of {', '.join(OBJECTIVES)}")
    if options.pair_minutes and not issubclass(OBJECTIVES[options.objective], ReplacedTokenDetection):
        raise UserError(
            f"--pair-minutes is given with --objective {options.objective}, should be left out: the pair is part of "
            "the report on replaced tokens"
        )


def recipe_of(options: Options) -> Recipe:
    recipe = RECIPES[options.config]
    return replace(recipe, batch_size=options.batch_size or recipe.batch_size)


def row_lengths(options: Options, recipe: Recipe) -> list[int]:
    """The row lengths of the phases, each once."""
    return list(dict.fromkeys(phase.length for phase in asked_schedule(options, recipe).phases))


def asked_schedule(options: Options, recipe: Recipe) -> Schedule:
    """The schedule as it was asked for, before ``minutes`` are turned into steps."""
    return options.phases or one_phase(recipe.length, options.steps or recipe.steps)


def identity_of(options: Options, recipe: Recipe, cache: TokenCache) -> dict[str, Any]:
    """Everything that decides the result of a run, in the words of the command line."""
    return {
        "--config": options.config,
        "--objective": options.objective,
        "--minutes": options.minutes,
        "steps": str(asked_schedule(options, recipe)),
        "--batch-size": recipe.batch_size,
        "--seed": options.seed,
        "packing": options.pack,
        "the data": cache.meta["digest"],
    }
