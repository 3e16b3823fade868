"""Prints measurements as lines of a table, with the same columns on a CPU and on a GPU."""

from collections.abc import Sequence

from benchmarks.harness import Case, Measurement

COLUMNS = f"{'ms':>44}{'spread':>10}{'speed-up':>11}{'x reading':>11}{'x traffic':>11}{'extra MB':>10}"
LEGEND = """\
speed-up: time of the case's first line over own time; x reading, x traffic: own time over the time of reading the bytes
that the work needs, and of reading and writing them; extra MB: peak memory beyond inputs and gradients"""


def show(case: Case, measured: Sequence[Measurement]) -> None:
    print(case.name)
    for one in measured:
        extra = "-" if one.peak_extra_bytes is None else f"{one.peak_extra_bytes / 1e6:.1f}"
        time_columns = f"{one.median * 1e3:8.3f}{one.spread * 1e3:10.3f}"
        ratios = f"{one.speedup:11.2f}{one.times_reading:11.1f}{one.times_traffic:11.1f}"
        added = f"   adds {1 / one.speedup - 1:.1%}" if case.adds_to_baseline else ""
        print(f"    {one.variant:32}{time_columns}{ratios}{extra:>10}{added}")
    for variant, reason in case.absent.items():
        print(f"    {variant:32}not here: {reason}")
    print(end="", flush=True)
