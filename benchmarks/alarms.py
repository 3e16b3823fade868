"""Replays the logs of a comparison through the alarms, and counts false alarms and misses.

    python -m benchmarks.alarms OUTPUT [OUTPUT ...]

OUTPUT is a folder of ``electra-kernels compare``. A run has a fault if its condition holds on held-out text after the
end. An alarm without that fault is false, and a fault without its alarm was missed.
"""

import argparse
import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from electra_kernels.training.alarms import Monitor
from electra_kernels.training.log import LOG, StepRecord, read_log


class Verdict(NamedTuple):
    """One run: the alarms of its training, and the conditions that hold at its end."""

    run: str
    alarms: set[str]
    faults: set[str]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alarms", description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", type=Path, nargs="+", metavar="OUTPUT")
    verdicts = [one for folder in parser.parse_args(argv).comparisons for one in judge(folder / "runs")]
    print("\n".join(report(verdicts)))


def judge(runs: Path) -> Iterator[Verdict]:
    """The verdict on each finished run with a log."""
    plateau: float = pickle.loads((runs / "setting.pickle").read_bytes()).plateau
    for log in sorted(runs.glob(f"*.log/{LOG}")):
        name = log.parent.name.removesuffix(".log")
        record = runs / f"{name}-trained.json"
        if record.exists():
            held_out = json.loads(record.read_text())["held_out"]
            end = (StepRecord(step, 1, 0, 0.0, {}, held_out) for step in (0, 1))
            yield Verdict(name, _alarms(read_log(log).step_records, plateau), _alarms(end, plateau))


def report(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line for each condition that occurs, and the runs with an error of the alarm below it."""
    yield f"{len(verdicts)} runs"
    for name in sorted({name for one in verdicts for name in one.alarms | one.faults}):
        given = [one for one in verdicts if name in one.alarms]
        false = [one.run for one in given if name not in one.faults]
        missed = [one.run for one in verdicts if name in one.faults - one.alarms]
        yield f"{name}: {len(given)} alarms, {len(false)} false, {len(missed)} missed"
        yield from (f"    false: {run}" for run in false)
        yield from (f"    missed: {run}" for run in missed)


def _alarms(records: Iterable[StepRecord], plateau: float) -> set[str]:
    monitor = Monitor(plateau)
    return {alarm.name for record in records for alarm in monitor.check(record)}


if __name__ == "__main__":
    main()
