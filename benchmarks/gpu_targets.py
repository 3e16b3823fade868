"""What the kernels are to reach on an H100, and what a results file of `gpu_check` says they do."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.targets import (
    BCE,
    LINEAR,
    LOSS,
    PRODUCTS,
    SAMPLE,
    Record,
    Target,
    added,
    rows,
    speedup,
    times,
)

GRAPH, COMPILED = "ours, in a CUDA graph", "ours, compiled, in a CUDA graph"
_HALF = "bfloat16"
_MOST_LAUNCHES = 2


def bandwidth(contender: str) -> Callable[[Record], float | None]:
    """Share of the bandwidth that a copy reaches beside it."""

    def figure(case: Record) -> float | None:
        found = case["contenders"].get(contender)
        return None if found is None else 1 / found["times_traffic"]

    return figure


def times_traffic(contender: str) -> Callable[[Record], float | None]:
    return lambda case: case["contenders"].get(contender, {}).get("times_traffic")


def extra_megabytes(contender: str) -> Callable[[Record], float | None]:
    """Peak memory without the gradients and their float32 accumulators, [V, E] and [V]."""

    def figure(case: Record) -> float | None:
        extra = case["contenders"].get(contender, {}).get("peak_extra_bytes")
        accumulators = 4 * case["sizes"]["V"] * (case["sizes"]["E"] + 1)
        return None if extra is None else max(0, extra - accumulators) / 1e6

    return figure


def _bounded(
    op: str, words: str, figure: Callable[[Record], float | None], bound: float, **options: Any
) -> Target:
    return Target(op, words, figure, bound, bound, **options)


def _linear(rows: int) -> list[Target]:
    common: dict[str, Any] = {"at_least": False, "dtype": _HALF, "sizes": {"N": rows}}
    return [
        _bounded(LINEAR, "in a CUDA graph ≤ {} its three products", times(GRAPH, PRODUCTS), 1.15, **common),
        _bounded(LINEAR, "extra memory ≤ {}", extra_megabytes("ours"), 64, shown="{:.3g} MB", **common),
    ]


_COPY = "≥ {} of the bandwidth of a copy"
TARGETS = [
    _bounded(SAMPLE, _COPY, bandwidth("ours"), 0.9, shown="{:.0%}"),
    _bounded(SAMPLE, _COPY, bandwidth("ours"), 0.9, shown="{:.0%}", dtype=_HALF),
    _bounded(LOSS, "in place ≤ {} copying the logits", times_traffic("ours in place"), 1.15, at_least=False),
    _bounded(
        LOSS,
        "in place ≤ {} copying the logits",
        times_traffic("ours in place"),
        1.15,
        at_least=False,
        dtype=_HALF,
    ),
    *_linear(2_560),
    *_linear(19_712),
    _bounded(BCE, "≥ {} eager", speedup("ours"), 4, sizes={"B": 256}),
    _bounded(
        "ELECTRA-Small step, autocast",
        "in a CUDA graph, heads add ≤ {} to the encoders alone",
        added(GRAPH, "encoders alone, in a CUDA graph"),
        0.08,
        at_least=False,
        shown="{:.1%}",
        dtype=_HALF,
    ),
    *(
        _bounded(
            f"ELECTRA-{name} training step",
            "compiled, in a CUDA graph ≥ {} torch.compile of eager",
            times("torch.compile", COMPILED),
            1.5,
            dtype=_HALF,
        )
        for name in ("Small", "Base")
    ),
]


def table(results: Mapping[str, Any]) -> str:
    """The targets and what was reached, in Markdown; a case that the file lacks is "not measured"."""
    return f"{rows(TARGETS, results)}\n{_launches(results)}"


def _launches(results: Mapping[str, Any]) -> str:
    found = results["sections"].get("bench_bce", {}).get("forward_launches")
    reached = (
        "not measured | |" if found is None else f"{found} | {'✓' if found <= _MOST_LAUNCHES else '✗'} |"
    )
    return f"| `masked_bce_with_logits`, forward | ≤ {_MOST_LAUNCHES} launches | {reached}"
