"""What runs beside the default: lower instruction sets, other back ends, torch.compile of the eager recipe."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from benchmarks.meters import Run
from electra_kernels import backends, use_backend
from electra_kernels.backends.registry import implementation

# Of torch.compile; another one tries a benchmark without waiting for compilers.
compiler = "inductor"


class Contenders(NamedTuple):
    """``runs``: name → what is run; ``absent``: name → why it is not there."""

    runs: dict[str, Run]
    absent: dict[str, str]


def ours(op: str, run: Run, *, everywhere: bool) -> dict[str, Run]:
    """``run`` by the default back end; with ``everywhere`` also at its lower instruction sets and by the others."""
    table, device = backends(), torch.get_default_device().type
    default = table.serving[op, device]
    runs = {"ours": run}
    if not everywhere:
        return runs
    for level in table.levels.get(default, ())[1:]:
        runs[f"ours, {level}"] = _served(run, default, level)
    others = [name for name in table.available if name != default and _has(name, op, device)]
    return runs | {f"ours, {name}": _served(run, name, None) for name in others}


def _has(backend: str, op: str, device: str) -> bool:
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


def compiled(
    recipe: Callable[..., Any], arguments: tuple[Any, ...], finish: Callable[[Any], object]
) -> Contenders:
    """torch.compile of an eager recipe; ``finish`` takes its result, for the backward."""
    function = torch.compile(recipe, dynamic=False, backend=compiler)

    def run() -> object:
        return finish(function(*arguments))

    if torch.get_default_device().type != "cpu":
        # It is compiled by its first run: what is compiled under a default device is of no use without one.
        return Contenders({"torch.compile": run}, {})
    try:
        run()
    except torch._dynamo.exc.TorchDynamoException as error:
        return Contenders({}, {"torch.compile": str(error).splitlines()[0]})
    return Contenders({"torch.compile": run}, {})


def line_up(eager: Run, compiled: Contenders | None, *others: Mapping[str, Run]) -> Contenders:
    """The eager recipe first, which is the baseline; then torch.compile of it, then the others."""
    runs = {"eager": eager}
    if compiled is not None:
        runs |= compiled.runs
    for other in others:
        runs |= other
    return Contenders(runs, {} if compiled is None else compiled.absent)
