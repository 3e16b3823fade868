"""The folder of a comparison: one record per finished run, which is never made again."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from electra_kernels.errors import UserError
from electra_kernels.evaluation.comparison.processes import in_processes
from electra_kernels.evaluation.comparison.runs import choice_run, probe_run, train_run, weights_path
from electra_kernels.evaluation.comparison.setting import Run
from electra_kernels.files import write_whole

RESULTS = ("runs", "compare.html", "compare.json", "compare.png")
_PHASES = {"trained": train_run, "chosen": choice_run, "probed": probe_run}

Record = dict[str, Any]
Log = Callable[[str], None]


def require_same_setting(path: Path, facts: Record) -> None:
    """Write the facts, or check that those of an earlier comparison in the same folder are the same.

    Raises:
        UserError: they differ, or the folder holds results of something else.
    """
    try:
        earlier = dict(json.loads(path.read_text())) if path.exists() else facts
    except (ValueError, TypeError):
        raise UserError(
            f"{path} is not from a comparison of electra-kernels: use another --output, or remove it"
        ) from None
    foreign = [] if path.exists() else [name for name in RESULTS if (path.parent / name).exists()]
    if foreign:
        raise UserError(
            f"--output {path.parent} holds {foreign[0]}, which is not from electra-kernels compare: choose another "
            "folder, or move it away"
        )
    changed = [
        f"{name} was {earlier.get(name)} and is {facts.get(name)}"
        for name in {**earlier, **facts}
        if earlier.get(name) != facts.get(name)
    ]
    if changed:
        raise UserError(
            f"--output {path.parent} holds runs of another comparison: {'; '.join(changed)}; use a new folder"
        )
    write_whole(path, json.dumps(facts, indent=1) + "\n")


def finished_records(
    phase: str, setting: Path, processes: int, log: Log, runs: Sequence[Run]
) -> list[Record]:
    """The records of all runs, in their order. Those that the folder has are read, the others are made.

    Args:
        phase: "trained", "chosen" or "probed".
        setting: the pickled `Setting`; records and encoders lie beside it.
        processes: runs at the same time.
        log: called with a line for each run that is made.
        runs: the runs.
    """
    folder = setting.parent
    files = {run: folder / f"{run.name}-{phase}.json" for run in runs}
    missing = [run for run, file in files.items() if not _is_current(file, weights_path(folder, run))]
    with closing(in_processes(_PHASES[phase], setting, missing, processes)) as records:
        for count, record in enumerate(records, start=1):
            run = Run(**{name: record[name] for name in Run.__dataclass_fields__})
            write_whole(files[run], json.dumps(record) + "\n")
            log(f"{count:3} of {len(missing)}  {run.name:40} {_line(record)}")
            for alarm in record.get("alarms", ()):
                log(f"     {alarm}")
    return [json.loads(file.read_text()) for file in files.values()]


def _is_current(record: Path, encoder: Path) -> bool:
    """Whether a record belongs to the saved encoder: it is not older."""
    return record.exists() and encoder.exists() and record.stat().st_mtime_ns >= encoder.stat().st_mtime_ns


def _line(record: Record) -> str:
    if "curve" in record:
        return f"{record['tokens']:10,} tokens  AUC {record['curve'][-1]['figure']:.3f}"
    if "choice" in record:
        return f"{record['choice']:.3f} for the choice of the learning rate"
    return "  ".join(f"{task} {figures['frozen']:.3f}" for task, figures in record["probes"].items())
