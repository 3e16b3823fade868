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

from electra_kernels.errors import AgreedError, UserError
from electra_kernels.files import sync
from electra_kernels.training.trainer import Position, Trainer
from electra_kernels.training.world import World

_NAME = re.compile(r"step-\d+")
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
        self._damaged: set[Path] = set()

    def save(self, trainer: Trainer) -> None:
        """Copy the state to the memory of the CPU, and write it in a thread. All ranks call this at the same step."""
        self.finish()
        step = trainer.position.step
        partial = self._partial(step)
        if self.world.is_main:
            for leftover in self.folder.glob("step-*.partial"):  # of a killed process
                shutil.rmtree(leftover, ignore_errors=True)
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
            Whether it is whole and in its place, as far as this rank knows; True if none was being written.
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
        return self._publish(step) if self.world.is_main else True

    def restore(self, trainer: Trainer, path: Path | None = None) -> bool:
        """Load the newest checkpoint that can be read, or the one at ``path``, into a new trainer.

        Returns:
            Whether there was one.

        Raises:
            UserError: there are checkpoints, but none of them can be read or fits the model; or ``path`` is none.
        """
        if path is not None:
            self.world.on_main(lambda: _require_checkpoint(path))
        elif self.world.is_main:
            for folder in _torn_folders(self.folder):
                self.warn(f"{folder} is passed over: it has no {_METADATA}")
        listed = self.world.on_main(lambda: whole_checkpoints(self.folder) if path is None else [path])
        problem = ""
        for candidate in listed:
            state = _state(trainer)
            try:
                dcp.load(state, checkpoint_id=candidate, process_group=self.world.control)
            except (CheckpointException, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                problem = f"{candidate} cannot be loaded: {_reason(error)}"
                self._damaged.add(candidate)
                if self.world.is_main and candidate != listed[-1]:  # the error reports the last one
                    self.warn(problem)
                continue
            set_state_dict(
                trainer.objective,
                trainer.optimizers,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
            )
            trainer.position = Position(**state["position"])
            if path is not None and self.world.is_main and path.resolve().parent == self.folder.resolve():
                for later in whole_checkpoints(self.folder):  # the user has gone back to this one
                    if step_of(later) > trainer.position.step:
                        shutil.rmtree(later, ignore_errors=True)
            return True
        if problem:
            raise AgreedError(
                problem if path else f"no checkpoint can be read; {problem}; --resume never starts again"
            )
        return False

    def _partial(self, step: int) -> Path:
        return self.folder / f"step-{step}.partial"

    def _publish(self, step: int) -> bool:
        """Rename the finished folder, and keep only it and the `_KEPT` - 1 good ones before it.

        Later ones are not of this training: they could not be read when it was resumed.

        Returns:
            Whether it has its name.
        """
        partial, target = self._partial(step), self.folder / f"step-{step}"
        try:
            sync(partial)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
            sync(self.folder)
        except OSError as error:
            self.warn(f"the checkpoint of step {step:,} could not be kept: {_reason(error)}")
            return False
        self._damaged.discard(target)
        good = [path for path in whole_checkpoints(self.folder) if path not in self._damaged]
        kept = [path for path in good if step_of(path) <= step][:_KEPT]
        for other in {*whole_checkpoints(self.folder), *_torn_folders(self.folder)} - set(kept):
            shutil.rmtree(other, ignore_errors=True)
        return True


def _state(trainer: Trainer) -> dict[str, Any]:
    model, optimizer = get_state_dict(trainer.objective, trainer.optimizers)
    return {"model": model, "optimizer": optimizer, "position": asdict(trainer.position)}


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder that have their metadata, which is written last; the newest first."""
    return [path for path in _step_folders(folder) if (path / _METADATA).is_file()]


def step_of(path: Path) -> int:
    """The step of a folder ``step-N``."""
    return int(path.name.removeprefix("step-"))


def _torn_folders(folder: Path) -> list[Path]:
    """Folders step-N that a fault of the disk has left without their metadata."""
    return [path for path in _step_folders(folder) if not (path / _METADATA).is_file()]


def _step_folders(folder: Path) -> list[Path]:
    """The newest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def _require_checkpoint(path: Path) -> None:
    if not (path / _METADATA).is_file():
        raise UserError(
            f"--resume is {path}, should be auto, never or a folder such as OUTPUT/checkpoints/step-100"
        )


def _reason(error: BaseException) -> str:
    """The innermost reason of an error, in one line."""
    if isinstance(error, CheckpointException) and error.failures:
        failure = next(iter(error.failures.values()))
        error = failure[0] if isinstance(failure, tuple) else failure
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "unexpected pos" in lines[-1]:  # torch's words for it
        return "No space left on device, or the file system has lost bytes"
    return lines[-1].strip()
