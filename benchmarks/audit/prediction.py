"""From what was launched and what the compilers made of it: the time that an op takes at least on a GPU."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.audit import gpus
from benchmarks.audit.cases import Case
from benchmarks.audit.gpus import Gpu

Record = dict[str, Any]
PIPES = ("issue", "special", "double")


class Launched(NamedTuple):
    """A launch of a kernel, of which ``kernel`` is the record."""

    kernel: Record
    blocks: int
    threads: int  # of a block


def predicted(gpu: Gpu, case: Case, launched: Sequence[Launched], again: int) -> Record:
    """``again``: bytes that come from memory a second time, if the cache is too small for all that is under way."""
    under_way = _under_way(gpu, case, launched)
    size = case.least + (again if under_way > gpu.cache else 0)
    bounds = gpus.seconds(gpu, size, {pipe: _executed(pipe, case, launched) for pipe in PIPES})
    bound = max(bounds, key=lambda name: bounds[name])
    return {
        "launches": named(one.kernel for one in launched),
        "under_way_bytes": under_way,
        "memory_bytes": size,
        "predicted_microseconds": round(bounds[bound] * 1e6, 3),
        "bound_by": bound,
        "times_memory": round(bounds[bound] / bounds["memory"], 3),
    }


def named(kernels: Any) -> dict[str, int]:
    """How often each was launched."""
    return dict(Counter(kernel["id"] for kernel in kernels))


def _executed(pipe: str, case: Case, launched: Sequence[Launched]) -> float:
    """Instructions of all threads. Launches of one kernel share what its phases go over."""
    threads: Counter[str] = Counter()
    for kernel, blocks, of_block in launched:
        threads[kernel["kernel"]] += blocks * of_block if kernel["phases"] else 0
    total = 0.0
    for kernel, blocks, of_block in launched:
        total += kernel["once"][pipe] * blocks * of_block
        for phase in kernel["phases"]:
            share = blocks * of_block / threads[kernel["kernel"]]
            total += phase[pipe] * share * case.elements[phase["of"]] / phase["elements"]
    return total


def _under_way(gpu: Gpu, case: Case, launched: Sequence[Launched]) -> int:
    """Bytes of what carries most of them that belong to the programs that run at once; where one kernel after another
    goes over it, all of it that they do at a time."""
    main, count = next(iter(case.elements.items()))
    streaming = [one for one in launched if any(phase["of"] == main for phase in one.kernel["phases"])]
    launches = Counter(one.kernel["kernel"] for one in streaming)
    at_a_time = count * case.dtype.itemsize / max(launches.values())
    if len(launches) > 1:
        return round(at_a_time)
    return round(
        max(
            at_a_time * min(1.0, one.kernel["programs_at_once"] * gpu.multiprocessors / one.blocks)
            for one in streaming
        )
    )
