"""Measures cases on the device of a section, the most important variants first, and writes each group at once."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks import results
from benchmarks.gpu.context import SectionContext
from benchmarks.harness import Case, Size, measure
from benchmarks.printing import COLUMNS, show
from benchmarks.timers import Graph, StreamTimer

# Seconds for all rounds of one group of variants.
_BUDGET = 0.3
_COPIED_BYTES = 1 << 30

Cases = Callable[[Size], Iterator[Case]]


def measure_all(context: SectionContext, subjects: Iterable[Cases]) -> tuple[list[dict[str, Any]], bool]:
    """Records of all cases, written group by group, and whether all variants of ours ran.

    The first groups are eager and ours of every case. The other variants follow, each in a group with the baseline.
    A run that is cut off therefore has the most important figures.
    """
    timer = StreamTimer(context.device)
    copied = timer.copied_per_second(1 << 20 if context.dry_run else _COPIED_BYTES)
    context.facts["copied_bytes_per_second"] = float(f"{copied:.4g}")
    print(f"a copy moves {copied / 1e9:.0f} GB/s\n{COLUMNS}")
    found: dict[str, _Found] = {}
    for part in (first_groups, other_groups):
        for cases in subjects:
            for case in _built(cases(context.size), context.device):
                so_far = found.setdefault(case.name, _Found(dict(case.absent)))
                for names in part(case):
                    _measure_group(context, so_far, case, names, timer)
                    context.write(_records(found))
    failed = [name for one in found.values() for name in one.absent if name.startswith("ours")]
    return _records(found), bool(_records(found)) and not failed


@dataclass
class _Found:
    """The state of a case: why variants are absent, and the record of the measured ones."""

    absent: dict[str, str]
    record: dict[str, Any] = field(default_factory=dict)


def _records(found: Mapping[str, _Found]) -> list[dict[str, Any]]:
    return [{**one.record, "absent": one.absent} for one in found.values() if one.record]


def first_groups(case: Case) -> list[list[str]]:
    """One group: the baseline, eager and ours by default."""
    baseline = next(iter(case.variants))
    return [[name for name in case.variants if name == baseline or re.fullmatch("eager.*|ours[^,]*", name)]]


def other_groups(case: Case) -> list[list[str]]:
    """A group for each other variant, ours first."""
    (first,) = first_groups(case)
    others = [name for name in case.variants if name not in first]
    return [[name] for name in sorted(others, key=lambda name: not name.startswith("ours"))]


def _measure_group(
    context: SectionContext, found: _Found, case: Case, names: Sequence[str], timer: StreamTimer
) -> None:
    """Time these variants together with the baseline, which is the first variant of the case that ran."""
    beside = found.record.get("baseline")
    wanted = [*([beside] if beside else []), *names]
    group = _usable(replace(case, variants={name: case.variants[name] for name in wanted}, absent={}))
    if beside is not None and beside in group.absent:
        found.absent |= dict.fromkeys(names, f"beside {beside}: {group.absent[beside]}")
        return
    found.absent |= group.absent
    if set(group.variants) - {beside}:
        measured = measure(group, budget=_BUDGET, rounds=2 if context.dry_run else None, timer=timer)
        show(group, measured)
        record = results.record(group, measured)
        # The baseline keeps its figures from the group with ours.
        known = found.record.get("variants", {})
        found.record = {**record, **found.record, "variants": {**known, **record["variants"], **known}}
    for run in group.variants.values():
        if isinstance(run, Graph):
            run.release()


def _built(cases: Iterator[Case], device: torch.device) -> Iterator[Case]:
    """Builds cases on the device, which is the default only meanwhile: a default device slows each torch call."""
    while True:
        with nullcontext() if device.type == "cpu" else device:
            case = next(cases, None)
        if case is None:
            return
        yield case


def _usable(case: Case) -> Case:
    """The case without the variants that fail here; the remaining ones have run once, and so are compiled."""
    absent = dict(case.absent)
    for name, run in case.variants.items():
        try:
            run()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
        except Exception as error:  # whatever fails, the other variants go on
            (line, *_) = [*str(error).splitlines(), ""]
            absent[name] = f"{type(error).__name__}: {line[:200]}"
    working = {name: run for name, run in case.variants.items() if name not in absent}
    return replace(case, variants=working, absent=absent)
