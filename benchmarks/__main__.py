"""``python -m benchmarks [--quick]``: every op against eager torch on the CPU, in ratios measured side by side.

On a GPU: ``python -m benchmarks.gpu_check``.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch

from benchmarks import bce, masking, mlm_head, results, rtd_head, sampling, step
from benchmarks.harness import Case, Measurement, measure

IDEAS: Mapping[str, ModuleType] = {
    "masking": masking,
    "sampling": sampling,
    "mlm_head": mlm_head,
    "bce": bce,
    "rtd_head": rtd_head,
    "step": step,
}
# Seconds for the rounds of one case; with all cases a full run takes under 10 minutes on 2 cores, a quick one under 1.
_BUDGET, _QUICK_BUDGET = 5.0, 1.0
COLUMNS = f"{'ms':>44}{'spread':>10}{'speed-up':>11}{'x reading':>11}{'x traffic':>11}{'extra MB':>10}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small size per op, under a minute")
    parser.add_argument("--only", choices=IDEAS, action="append", help="this idea alone; may be repeated")
    parser.add_argument(
        "--rounds", type=int, help="how often each contender runs (default: as the time allows)"
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
    cases = _run(arguments.only or list(IDEAS), arguments.quick, arguments.rounds)
    if output is not None:
        results.write(output, cases)
        print(f"\nresults: {output}")


def _run(ideas: Sequence[str], quick: bool, rounds: int | None) -> list[dict[str, object]]:
    budget = _QUICK_BUDGET if quick else _BUDGET
    start, records = time.monotonic(), []
    for idea in ideas:
        for case in IDEAS[idea].cases("quick" if quick else "full"):
            measured = measure(case, budget=budget, rounds=rounds)
            show(case, measured)
            records.append(results.record(case, measured))
        print(f"-- {idea} done after {time.monotonic() - start:.0f} s")
    return records


def _headline(machine: Mapping[str, object]) -> str:
    facts = ("processor", "capability", "threads", "torch", "serving", "levels", "measures_memory")
    lines = [f"{fact}: {machine[fact]}" for fact in facts]
    legend = (
        "speed-up: to the first line of a case; x reading, x traffic: to reading, to reading and writing the bytes",
        "that the work has to; extra MB: peak memory beyond inputs and gradients",
    )
    return "\n".join([*lines, *legend, COLUMNS])


def show(case: Case, measured: Sequence[Measurement]) -> None:
    print(case.name)
    for one in measured:
        extra = "-" if one.peak_extra_bytes is None else f"{one.peak_extra_bytes / 1e6:.1f}"
        time_columns = f"{one.median * 1e3:8.3f}{one.spread * 1e3:10.3f}"
        ratios = f"{one.speedup:11.2f}{one.times_reading:11.1f}{one.times_traffic:11.1f}"
        added = f"   adds {1 / one.speedup - 1:.1%}" if case.adds_to_baseline else ""
        print(f"    {one.contender:32}{time_columns}{ratios}{extra:>10}{added}")
    for contender, reason in case.absent.items():
        print(f"    {contender:32}not here: {reason}")
    print(end="", flush=True)


if __name__ == "__main__":
    main()
