"""Checkpoints of a run: model, optimizers and position as OUTPUT/checkpoints/step-N, written while training goes on.

A checkpoint is written to a folder beside its place and renamed when all ranks have finished, so a folder ``step-N``
is whole. ``torch.distributed.checkpoint`` stores tensors by name, whatever part of them a rank holds: a checkpoint of
two sharded ranks can be loaded by one.
"""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from electra_kernels.errors import AgreedError
from electra_kernels.files import sync
from electra_kernels.training.trainer import Position, Trainer
from electra_kernels.training.world import World

_NAME = re.compile(r"step-(\d+)")
_METADATA = ".metadata"
_KEPT = 2


class Checkpoints:
    """The checkpoints of one run, saved by all ranks together.

    Args:
        folder: OUTPUT/checkpoints.
        world: the ranks.
        warn: called on rank 0 with one line if a checkpoint cannot be written or read; the training goes on.
    """

    def __init__(self, folder: Path, world: World, warn: Callable[[str], None]) -> None:
        self.folder, self.world, self.warn = folder, world, warn
        self._saving: tuple[int, Future[Any]] | None = None

    def save(self, trainer: Trainer) -> None:
        """Copy the state to the memory of the CPU, and write it in a thread. All ranks call this at the same step."""
        self.finish()
        step = trainer.position.step
        partial = self._partial(step)
        if self.world.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        future = dcp.async_save(_state(trainer), checkpoint_id=partial, process_group=self.world.saving)
        assert isinstance(future, Future)
        self._saving = (step, future)

    def poll(self) -> None:
        """Put a checkpoint that has been written in its place; does not wait."""
        if self._saving is not None and self._saving[1].done():
            self.finish()

    def finish(self) -> bool:
        """Wait for the checkpoint that is being written, and put it in its place.

        Returns:
            Whether it is whole; True if none was being written.
        """
        if self._saving is None:
            return True
        (step, future), self._saving = self._saving, None
        try:
            future.result()
        except (CheckpointException, OSError, RuntimeError) as error:
            if self.world.is_main:
                shutil.rmtree(self._partial(step), ignore_errors=True)  # makes room on a full disk
                self.warn(f"the checkpoint of step {step:,} could not be written: {_reason(error)}")
            return False
        if self.world.is_main:
            self._publish(step)
        return True

    def restore(self, trainer: Trainer, path: Path | None = None) -> bool:
        """Load the newest checkpoint that can be read, or the one at ``path``, into a new trainer.

        Returns:
            Whether there was one.

        Raises:
            UserError: there are checkpoints, but none of them can be read or fits the model.
        """
        listed = self.world.on_main(lambda: whole_checkpoints(self.folder) if path is None else [path])
        problem = ""
        for candidate in listed:
            state = _state(trainer)
            try:
                dcp.load(state, checkpoint_id=candidate, process_group=self.world.control)
            except (CheckpointException, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                problem = f"{candidate} cannot be loaded: {_reason(error)}"
                if self.world.is_main:
                    self.warn(problem)
                continue
            set_state_dict(
                trainer.objective,
                trainer.optimizers,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
            )
            trainer.position = Position(**state["position"])
            return True
        if problem:
            raise AgreedError(f"no checkpoint can be read; {problem}; --resume never starts again")
        return False

    def _partial(self, step: int) -> Path:
        return self.folder / f"step-{step}.partial"

    def _publish(self, step: int) -> None:
        """Rename the finished folder, and remove the checkpoints that are older than the newest `_KEPT`."""
        target = self.folder / f"step-{step}"
        try:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(self._partial(step), target)
            sync(self.folder)
        except OSError as error:
            self.warn(f"the checkpoint of step {step:,} could not be kept: {_reason(error)}")
            return
        for old in whole_checkpoints(self.folder)[_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def _state(trainer: Trainer) -> dict[str, Any]:
    model, optimizer = get_state_dict(trainer.objective, trainer.optimizers)
    return {"model": model, "optimizer": optimizer, "position": asdict(trainer.position)}


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder that have their metadata, which is written last; the newest first."""
    steps = {path: _NAME.fullmatch(path.name) for path in folder.glob("step-*")}
    whole = {path: int(match[1]) for path, match in steps.items() if match and (path / _METADATA).is_file()}
    return sorted(whole, key=whole.__getitem__, reverse=True)


def _reason(error: BaseException) -> str:
    """The innermost reason of an error, in one line."""
    if isinstance(error, CheckpointException) and error.failures:
        failure = next(iter(error.failures.values()))
        error = failure[0] if isinstance(failure, tuple) else failure
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
