"""``python -m benchmarks [--quick]``: time every op against eager torch on the CPU, as ratios within one run.

On a GPU: ``python -m benchmarks.gpu.check``.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch

from benchmarks import bce, joint_step, masking, mlm_head, replacing, results, rtd_head, sampling
from benchmarks.harness import measure
from benchmarks.printing import COLUMNS, LEGEND, show

SUBJECTS: Mapping[str, ModuleType] = {
    "masking": masking,
    "sampling": sampling,
    "replacing": replacing,
    "mlm_head": mlm_head,
    "bce": bce,
    "rtd_head": rtd_head,
    "joint_step": joint_step,
}
# Seconds for the rounds of one case. On 2 cores a full run takes under 10 minutes, a quick one under 1.
_BUDGET, _QUICK_BUDGET = 5.0, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small size per op, under a minute")
    parser.add_argument(
        "--only", choices=SUBJECTS, action="append", help="only this benchmark; may be repeated"
    )
    parser.add_argument(
        "--rounds", type=int, help="how often each variant runs (default: as the time allows)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="results file (default: benchmarks/results/MACHINE.json; with --quick, --only or --rounds none)",
    )
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}, should be at least 2, for there to be a spread")
    torch.manual_seed(0)
    machine = results.machine()
    output = arguments.output
    if output is None and not (arguments.quick or arguments.only or arguments.rounds):
        output = results.FOLDER / f"{machine['name']}.json"
    print(_headline(machine))
    cases = _run(arguments.only or list(SUBJECTS), arguments.quick, arguments.rounds)
    if output is not None:
        results.write(output, cases)
        print(f"\nresults: {output}")


def _run(subjects: Sequence[str], quick: bool, rounds: int | None) -> list[dict[str, object]]:
    budget = _QUICK_BUDGET if quick else _BUDGET
    start, records = time.monotonic(), []
    for subject in subjects:
        for case in SUBJECTS[subject].cases("quick" if quick else "full"):
            measured = measure(case, budget=budget, rounds=rounds)
            show(case, measured)
            records.append(results.record(case, measured))
        print(f"-- {subject} done after {time.monotonic() - start:.0f} s")
    return records


def _headline(machine: Mapping[str, object]) -> str:
    facts = ("processor", "capability", "threads", "torch", "serving", "levels", "measures_memory")
    return "\n".join([*(f"{fact}: {machine[fact]}" for fact in facts), LEGEND, COLUMNS])


if __name__ == "__main__":
    main()
