"""The state of a run between its start and its end, so that a run of hours survives the end of its process."""

import json
import shutil
import time
import warnings
from pathlib import Path

from electra_kernels.files import write_whole
from electra_kernels.training.checkpoints import Checkpoints
from electra_kernels.training.trainer import Trainer
from electra_kernels.training.world import World

SAVE_MINUTES = 2.0  # a run that is shorter leaves no checkpoint, and is repeated
Curve = list[dict[str, float]]


class Unfinished:
    """The checkpoints of one run and the points of its curve so far.

    Args:
        folder: for both; it is made when the first checkpoint is due.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = Checkpoints(folder, World(), warnings.warn)
        self.saved = time.monotonic()

    def restore(self, trainer: Trainer) -> Curve:
        """Load the newest checkpoint into a new trainer; returns the curve up to its step, [] if there is none."""
        if not self.checkpoints.restore(trainer):
            return []
        curve: Curve = json.loads(self._curve.read_text())
        return [point for point in curve if point["step"] <= trainer.position.step]

    def save_if_due(self, trainer: Trainer, curve: Curve) -> None:
        """Save both every `SAVE_MINUTES`. The curve is on the disk before the checkpoint that it belongs to."""
        self.checkpoints.poll()
        if time.monotonic() - self.saved < 60 * SAVE_MINUTES:
            return
        self.saved = time.monotonic()
        self.folder.mkdir(exist_ok=True)
        write_whole(self._curve, json.dumps(curve))
        self.checkpoints.save(trainer)

    def remove(self) -> None:
        """Remove the folder, since the run is finished."""
        self.checkpoints.finish()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _curve(self) -> Path:
        return self.folder / "curve.json"
