"""Which run a command belongs to, and the state from which it continues."""

from pathlib import Path
from typing import Any

from electra_kernels.commands.progress import Progress
from electra_kernels.commands.run_folder import RunFolder
from electra_kernels.commands.run_options import (
    Options,
)
from electra_kernels.errors import AgreedError, UserError
from electra_kernels.training.checkpoints import Checkpoints
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.trainer import Trainer
from electra_kernels.training.world import World


def check_ranks(options: Options, identity: dict[str, Any], recipe: Recipe, world: World) -> None:
    """Refuse ranks with different options or data, and a batch that cannot be shared out."""
    how = ("micro_batch", "shard", "checkpoint_layers", "compile", "vocab_parallel", "threads")
    shared = ("output", "resume", *how)
    execution = {f"--{name.replace('_', '-')}": getattr(options, name) for name in shared}
    for name, value in {**identity, **execution}.items():
        world.require_same(name, value)
    if recipe.batch_size % world.size:
        raise AgreedError(
            f"--batch-size is {recipe.batch_size}, should be a multiple of the number of ranks, {world.size}"
        )
    for local_size in world.gather(world.local_size):
        if local_size % options.vocab_parallel:
            raise AgreedError(
                f"--vocab-parallel is {options.vocab_parallel}, should divide the number of ranks of a machine, "
                f"{local_size}"
            )


def known_run(folder: RunFolder, options: Options, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The run in the output folder that this command continues; None for a new run."""
    if options.resume == "never":
        return None
    folder.require_same_run(identity)
    known, asked = folder.known(), _asked_checkpoint(options)
    begun_from = known.get("begun_from") if known else None
    if known and asked and not _is_own(asked, folder.checkpoints) and begun_from != str(asked):
        raise UserError(
            f"--output {folder.folder} holds a run that did not begin with {asked}: choose another folder, or leave "
            "--resume out to continue that run"
        )
    return known


def restore(
    options: Options,
    trainer: Trainer,
    checkpoints: Checkpoints,
    known: dict[str, Any] | None,
    progress: Progress,
) -> str | None:
    """Load the state to continue from, if there is one; returns the checkpoint of another run with which it began."""
    asked = _asked_checkpoint(options)
    if asked and _is_own(asked, checkpoints.folder):
        begun_from, is_restored = (
            known.get("begun_from") if known else None,
            checkpoints.restore(trainer, asked),
        )
    else:
        begun_from = known.get("begun_from") if known else asked and str(asked)
        is_restored = known is not None and checkpoints.restore(trainer)
        if not is_restored and begun_from:
            is_restored = checkpoints.restore(trainer, Path(begun_from))
    step, steps = trainer.position.step, trainer.schedule.steps
    if known is None and asked and step >= steps:
        raise AgreedError(f"--resume {asked} is at step {step:,}, should be before the last of {steps:,}")
    if is_restored:
        progress.log(f"continuing at step {step:,} of {steps:,}")
    return begun_from


def _asked_checkpoint(options: Options) -> Path | None:
    return None if options.resume in ("auto", "never") else Path(options.resume).absolute()


def _is_own(checkpoint: Path, folder: Path) -> bool:
    return checkpoint.resolve().parent == folder.resolve()
