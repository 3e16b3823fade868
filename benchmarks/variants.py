"""The variants of a case: the baseline, other implementations, and ours by each back end and instruction set."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from benchmarks.timers import Run
from electra_kernels import backends, use_backend
from electra_kernels.backends.registry import implementation


class Variants(NamedTuple):
    """``runs``: name → function of no arguments; ``absent``: name → why the variant cannot run here."""

    runs: dict[str, Run]
    absent: dict[str, str]


def collect(eager: Run, compiled: Variants | None, *others: Mapping[str, Run]) -> Variants:
    """The eager baseline first, which all ratios refer to; then torch.compile of it, then the others."""
    runs = {"eager": eager}
    if compiled is not None:
        runs |= compiled.runs
    for other in others:
        runs |= other
    return Variants(runs, {} if compiled is None else compiled.absent)


def ours(op: str, run: Run, *, everywhere: bool) -> dict[str, Run]:
    """``run`` by the default back end; with ``everywhere`` also at its lower instruction sets and by the others."""
    table, device = backends(), torch.get_default_device().type
    default = table.serving[op, device]
    runs = {"ours": run}
    if not everywhere:
        return runs
    for level in table.levels.get(default, ())[1:]:
        runs[f"ours, {level}"] = _served(run, default, level)
    others = [name for name in table.available if name != default and _serves(name, op, device)]
    return runs | {f"ours, {name}": _served(run, name, None) for name in others}


def _serves(backend: str, op: str, device: str) -> bool:
    with use_backend(backend):
        try:
            implementation(op, device)
        except RuntimeError:
            return False
    return True


def _served(run: Run, backend: str, level: str | None) -> Run:
    def served() -> object:
        with use_backend(backend, isa=level):
            return run()

    return served
