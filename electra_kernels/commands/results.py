"""The files that a run writes into its output folder, and which of them the next run may replace."""

import json
from collections.abc import Callable
from pathlib import Path

from electra_kernels.errors import UserError
from electra_kernels.evaluation.report import METRICS, PAGES
from electra_kernels.files import stop_signals_deferred
from electra_kernels.training.checkpoint import FILES, is_configuration, unfinished_folders


class Results:
    """The output folder of one ``pretrain``.

    The results of an earlier run stay as they are until this one saves its first model, so that a run which fails
    early costs nothing; then all of them go. Files of other names are never touched.

    Args:
        folder: it exists.

    Raises:
        UserError: the folder holds something that has the name of a result but is not from ``pretrain``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, folder / "model"
        self.step: int | None = None
        self._require_own()

    def save_model(self, step: int, save: Callable[[Path], None]) -> None:
        """Call ``save`` with the folder of the model; SIGINT and SIGTERM wait until it is done."""
        with stop_signals_deferred():
            save(self.model)
            if self.step is None:
                self._remove_report()
            self.step = step

    def saved(self) -> str:
        """Where the model that was saved last is."""
        if self.step is None:
            return "no model was saved"
        return f"the model of step {self.step:,} is in {self.model}"

    def _require_own(self) -> None:
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
        # The metrics say that the other files are ours, so they go last.
        for name in (*PAGES, METRICS):
            for path in (self.folder / name, *self.folder.glob(f"{name}.*.part")):
                path.unlink(missing_ok=True)


def _is_own_model(folder: Path) -> bool:
    """A folder with files of a checkpoint only, complete or as a killed process left it."""
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
