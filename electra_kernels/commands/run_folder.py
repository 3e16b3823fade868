"""The output folder of a pre-training run: what it holds, whose it is, and which files a new run may replace."""

import json
import shutil
from pathlib import Path
from typing import Any

from electra_kernels._version import __version__
from electra_kernels.errors import UserError
from electra_kernels.evaluation.report import METRICS, PAGES
from electra_kernels.files import recover_folder, unfinished_folders, write_whole
from electra_kernels.training.log import EVENTS, LOG
from electra_kernels.training.model_description import is_model_folder

RUN = "run.json"
_FOLDERS = ("checkpoints", EVENTS)


class RunFolder:
    """The output folder of one ``pretrain`` run, as rank 0 sees it.

    run.json says which run the folder belongs to: `identity` are the options that decide its result. The same command
    continues the run; another one is refused, so that no run is lost by mistake.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.checkpoints = folder, folder / "model", folder / "checkpoints"

    def check(self) -> None:
        """Put back a model that a killed process had moved away, and look at what the folder holds.

        Raises:
            UserError: a file or folder has the name of a result but was not written by ``pretrain``.
        """
        folders = [path for path in (self.model, *unfinished_folders(self.model)) if path.exists()]
        foreign = [path for path in folders if not is_model_folder(path)]
        if not _has_keys(self.folder / RUN, "identity"):
            results = [] if _has_keys(self.folder / METRICS, "recipe", "run") else [METRICS, LOG, *_FOLDERS]
            if not folders and results:
                results += PAGES
            foreign += [self.folder / name for name in (RUN, *results) if (self.folder / name).exists()]
        if foreign:
            raise UserError(
                f"--output {self.folder} holds {foreign[0].name}, which is not from electra-kernels pretrain and would "
                "be replaced: choose another folder, or move it away"
            )
        recover_folder(self.model)

    def known(self) -> dict[str, Any] | None:
        """The content of run.json; None if there is none yet."""
        try:
            values = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(
                f"{self.folder / RUN} is damaged ({error}); --resume never starts again"
            ) from error
        return dict(values)

    def require_same_run(self, identity: dict[str, Any]) -> None:
        """Check that the run in this folder, if there is one, has the same options and data.

        Raises:
            UserError: an option differs.
        """
        known = self.known()
        if known is None:
            if (self.folder / METRICS).exists() or self.model.exists():
                raise UserError(
                    f"--output {self.folder} holds results without {RUN}, which cannot be continued: choose another "
                    "folder, or --resume never to replace them"
                )
            return
        for name, value in identity.items():
            earlier = known.get("identity", {}).get(name)
            if earlier != value:
                raise UserError(
                    f"--output {self.folder} holds a run with {name} {earlier}, not {value}: choose another folder, or "
                    "--resume never to replace that run"
                )

    def begin(self, run: dict[str, Any]) -> None:
        """Remove the results of an earlier run except its model, and write run.json.

        The model stays until this run saves its first one.
        """
        # run.json identifies the other files as results of pretrain, so it is removed last.
        for name in _FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (*PAGES, METRICS, LOG, RUN):
            for path in (self.folder / name, *self.folder.glob(f"{name}.*.part")):
                path.unlink(missing_ok=True)
        self.write_run(run)

    def write_run(self, run: dict[str, Any]) -> None:
        """Write run.json, whole or not at all."""
        write_whole(
            self.folder / RUN,
            json.dumps({"electra_kernels": __version__, **run}, indent=2, default=str) + "\n",
        )


def _has_keys(path: Path, *names: str) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.keys() >= set(names)
