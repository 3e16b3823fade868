"""The output folder of a pre-training run: its files, and which of them the next run may replace."""

import json
from collections.abc import Callable
from pathlib import Path

from electra_kernels.errors import UserError
from electra_kernels.evaluation.report import METRICS, PAGES
from electra_kernels.files import stop_signals_deferred
from electra_kernels.training.checkpoint import FILES, is_configuration, unfinished_folders


class Results:
    """The output folder of one ``pretrain`` run.

    The results of an earlier run are removed when this run saves its first model, so that a run which fails before
    that loses nothing. Files with other names are never touched.

    Args:
        folder: an existing folder.

    Raises:
        UserError: a file or folder has the name of a result but was not written by ``pretrain``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, folder / "model"
        self.step: int | None = None
        self._refuse_foreign_files()

    def save_model(self, step: int, save: Callable[[Path], None]) -> None:
        """Call ``save`` with the folder of the model; SIGINT and SIGTERM are delayed until it returns."""
        with stop_signals_deferred():
            save(self.model)
            if self.step is None:
                self._remove_report()
            self.step = step

    def last_saved(self) -> str:
        """A message that names the step and the folder of the last saved model."""
        if self.step is None:
            return "no model was saved"
        return f"the model of step {self.step:,} is in {self.model}"

    def _refuse_foreign_files(self) -> None:
        folders = [path for path in (self.model, *unfinished_folders(self.model)) if path.exists()]
        foreign = [path for path in folders if not _is_own_model(path)]
        metrics = self.folder / METRICS
        is_own_report = _has_keys(metrics, "recipe", "run")
        if metrics.exists() and not is_own_report:
            foreign.append(metrics)
        if not folders and not is_own_report:
            foreign += [self.folder / name for name in PAGES if (self.folder / name).exists()]
        if foreign:
            raise UserError(
                f"--output {self.folder} holds {foreign[0].name}, which is not from electra-kernels pretrain and would "
                "be replaced: choose another folder, or move it away"
            )

    def _remove_report(self) -> None:
        # METRICS identifies the other files as results of pretrain, so it is removed last.
        for name in (*PAGES, METRICS):
            for path in (self.folder / name, *self.folder.glob(f"{name}.*.part")):
                path.unlink(missing_ok=True)


def _is_own_model(folder: Path) -> bool:
    """Whether a folder holds only files of a checkpoint, complete or as a killed process left them."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir() if not path.name.endswith(".part")}
    return names <= set(FILES) and (not names or is_configuration(folder / "config.json"))


def _has_keys(path: Path, *names: str) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() >= set(names)
