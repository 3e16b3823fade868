"""What the output folder of a run says about it: run.json, metrics.jsonl and, after the end, metrics.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_kernels.errors import UserError
from electra_kernels.files import write_whole
from electra_kernels.training.log import LOG, RunLog, finite, read_log

RUN, METRICS = "run.json", "metrics.json"


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Attributes:
        folder: its output folder.
        options: run.json: "config", "objective", "recipe", "text", "execution" (ranks …) and "run" (device, seed …),
            of which a run may leave out any.
        log: metrics.jsonl.
        results: metrics.json, with the measurements after the training; None if there are none of this run.
    """

    folder: Path
    options: dict[str, Any]
    log: RunLog
    results: dict[str, Any] | None

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """What was measured on held-out text during the training."""
        return self.log.of_kind("evaluation") or (self.results or {}).get("evaluations", [])

    @property
    def alarms(self) -> list[str]:
        logged = [f"at step {record['step']:,}: {record['message']}" for record in self.log.of_kind("alarm")]
        return logged or (self.results or {}).get("alarms", [])

    @property
    def resumed(self) -> list[int]:
        """Steps at which the run was resumed."""
        return [record["step"] for record in self.log.of_kind("start") if record["step"] > 0]

    @property
    def baselines(self) -> dict[str, float]:
        return (self.results or self.options).get("baselines") or {}


def read_run(folder: Path) -> Run:
    """Read the files of a run; it may be going on.

    Raises:
        UserError: the folder is not the output of a run, or a file of it cannot be read.
        OSError: a file cannot be opened.
    """
    results, options = _read_json(folder / METRICS), _read_json(folder / RUN)
    log = read_log(folder / LOG)
    if options is None:  # a run without a log has everything in its metrics.json
        options = results if results is not None and results.keys() >= {"recipe", "run"} else None
    if options is None:
        raise UserError(f"{folder} is not the output of electra-kernels pretrain: {folder / RUN} is missing")
    return Run(folder, options, log, results if _is_of_this_run(results, log) else None)


def write_metrics(folder: Path, metrics: dict[str, Any]) -> Path:
    """Write metrics.json alone; returns its path."""
    path = folder / METRICS
    write_whole(path, json.dumps(finite(metrics), indent=2, allow_nan=False) + "\n")
    return path


def _is_of_this_run(results: dict[str, Any] | None, log: RunLog) -> bool:
    """Whether metrics.json, if there is one, is not that of an earlier run in the same folder."""
    if results is None or not log.records:
        return True
    return log.end is not None and results.get("run", {}).get("steps") == log.step


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} should hold an object, not {type(values).__name__}")
    return values
