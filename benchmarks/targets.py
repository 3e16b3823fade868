"""Targets for the kernels on a CPU and on an H100, compared with the figures of a results file."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """A bound for a figure of one case: the main case of ``op``, or the one with these ``sizes`` or this ``dtype``.

    Attributes:
        op: name of the case's op.
        words: description of the target, with {} for the bound.
        figure: takes the record of the case; None if it was not measured.
        avx512, otherwise: the bound on processors with AVX-512, and on all other devices.
        at_least: the figure should be at least the bound; otherwise at most.
        shown: format of the figure and its bound.
    """

    op: str
    words: str
    figure: Callable[[Record], float | None]
    avx512: float
    otherwise: float
    at_least: bool = True
    shown: str = "{:.3g}x"
    dtype: str = "float32"
    sizes: Mapping[str, int] = field(default_factory=dict)


def speedup(variant: str) -> Callable[[Record], float | None]:
    return lambda case: _figure(case, variant, "speedup")


def times_reading(variant: str) -> Callable[[Record], float | None]:
    return lambda case: _figure(case, variant, "times_reading")


def times(variant: str, other: str) -> Callable[[Record], float | None]:
    """Own time over another variant's: the median of the ratio within a round."""

    def figure(case: Record) -> float | None:
        own, others = _figure(case, variant, "seconds"), _figure(case, other, "seconds")
        if own is None or others is None:
            return None
        return statistics.median(one / two for one, two in zip(own, others))

    return figure


def added(variant: str, part: str) -> Callable[[Record], float | None]:
    """Time that ``variant`` takes beyond its ``part``, as a share of the part's."""

    def figure(case: Record) -> float | None:
        ratio = times(variant, part)(case)
        return None if ratio is None else ratio - 1

    return figure


def memory(variant: str, other: str) -> Callable[[Record], float | None]:
    """Extra memory over another variant's."""

    def figure(case: Record) -> float | None:
        own, others = (_figure(case, name, "peak_extra_bytes") for name in (variant, other))
        return None if own is None or not others else own / others

    return figure


def _figure(case: Record, variant: str, name: str) -> Any:
    return case["variants"].get(variant, {}).get(name)


def bandwidth(variant: str) -> Callable[[Record], float | None]:
    """Share of the bandwidth that a copy reaches in the same rounds."""

    def figure(case: Record) -> float | None:
        found = case["variants"].get(variant)
        return None if found is None else 1 / found["times_traffic"]

    return figure


def times_traffic(variant: str) -> Callable[[Record], float | None]:
    return lambda case: _figure(case, variant, "times_traffic")


def extra_megabytes(variant: str) -> Callable[[Record], float | None]:
    """Peak memory in MB without the gradients and their float32 accumulators, [V, E] and [V]."""

    def figure(case: Record) -> float | None:
        extra = case["variants"].get(variant, {}).get("peak_extra_bytes")
        accumulators = 4 * case["sizes"]["V"] * (case["sizes"]["E"] + 1)
        return None if extra is None else max(0, extra - accumulators) / 1e6

    return figure


SAMPLE, LOSS = "sample_tokens", "cross_entropy_sample f+b"
LINEAR, STEP = "linear_cross_entropy_sample f+b", "ELECTRA-Small step"
BCE, RTD = "masked_bce_with_logits f+b", "linear_masked_bce f+b"
PRODUCTS = "its three products alone"
GRAPH, COMPILED = "ours, in a CUDA graph", "ours, compiled, in a CUDA graph"
_HALF = "bfloat16"
_MOST_LAUNCHES = 2

CPU_TARGETS = [
    Target(SAMPLE, "≥ {} eager Gumbel-max", speedup("ours"), 60, 25),
    Target(SAMPLE, "≤ {} the time of reading the logits", times_reading("ours"), 3, 4, False),
    Target(LOSS, "in place ≥ {} eager cross-entropy + Gumbel-max", speedup("ours in place"), 60, 20),
    Target(LOSS, "in place ≤ {} the time of reading the logits", times_reading("ours in place"), 4, 5, False),
    Target(LOSS, "out of place ≥ {} eager", speedup("ours"), 15, 15),
    Target(LINEAR, "≤ {} its three matrix products", times("ours", PRODUCTS), 1.1, 1.1, False),
    Target(LINEAR, "< {} `F.linear_cross_entropy`", times("ours", "F.linear_cross_entropy"), 1, 1, False),
    Target(
        LINEAR,
        "< {} `F.linear_cross_entropy`, chunked",
        times("ours", "F.linear_cross_entropy, chunked"),
        1,
        1,
        False,
    ),
    Target(LINEAR, "extra memory ≤ {} of eager's", memory("ours", "eager"), 0.1, 0.1, False, shown="{:.1%}"),
    Target(LINEAR, "≤ {} its products", times("ours", PRODUCTS), 1.5, 1.5, False, dtype="bfloat16"),
    Target(BCE, "≥ {} eager", speedup("ours"), 3, 3, sizes={"B": 256}),
    Target(BCE, "≥ {} eager", speedup("ours"), 5, 5, sizes={"B": 1024}),
    Target(RTD, "≥ {} eager", speedup("ours"), 1.5, 1.5),
    Target("mask_tokens", "≥ {} eager", speedup("ours"), 4, 4),
    Target("sample_replacements", "≥ {} eager Gumbel-max + scatter", speedup("ours"), 5, 5),
    Target("replace_tokens", "≥ {} eager", speedup("ours"), 1, 1),
    Target(
        STEP,
        "the head adds ≤ {} to the encoders alone",
        added("ours", "encoders alone"),
        0.08,
        0.08,
        False,
        shown="{:.1%}",
    ),
    Target(
        "demo step with optimiser", "≥ {} the reference back end", speedup("ours"), 2.5, 2.5, sizes={"B": 16}
    ),
]


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
GPU_TARGETS = [
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
    """The targets for the machine of a results file and the figures reached, in Markdown.

    A case that the file lacks is "not measured".
    """
    if "gpu" in results["machine"]:
        return gpu_table(results)
    return rows(CPU_TARGETS, results, results["machine"]["capability"].startswith("AVX512"))


def gpu_table(results: Mapping[str, Any]) -> str:
    """The targets for a GPU, also for the results of a dry run."""
    return f"{rows(GPU_TARGETS, results)}\n{_launches(results)}"


def _launches(results: Mapping[str, Any]) -> str:
    """The row for the number of kernels that the forward of `masked_bce_with_logits` launches."""
    found = results["sections"].get("bench_bce", {}).get("forward_launches")
    reached = (
        "not measured | |" if found is None else f"{found} | {'✓' if found <= _MOST_LAUNCHES else '✗'} |"
    )
    return f"| `masked_bce_with_logits`, forward | ≤ {_MOST_LAUNCHES} launches | {reached}"


def rows(targets: Sequence[Target], results: Mapping[str, Any], has_avx512: bool = False) -> str:
    lines = ["| work | target | reached | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(_row(target, results, has_avx512) for target in targets)])


def _row(target: Target, results: Mapping[str, Any], has_avx512: bool) -> str:
    bound = target.avx512 if has_avx512 else target.otherwise
    words = target.words.format(target.shown.format(bound))
    case = _find(target, results)
    figure = None if case is None else target.figure(case)
    if case is None or figure is None:
        return f"| `{target.op}` | {words} | not measured | |"
    is_reached = figure >= bound if target.at_least else figure <= bound
    sizes = ", ".join(f"{symbol} = {size:,}" for symbol, size in case["sizes"].items())
    dtype = "" if case["dtype"] == "float32" else f", {case['dtype']}"
    reached = target.shown.format(figure)
    return f"| `{target.op}`, {sizes}{dtype} | {words} | {reached} | {'✓' if is_reached else '✗'} |"


def _find(target: Target, results: Mapping[str, Any]) -> Record | None:
    for case in results["cases"]:
        sizes = case["sizes"]
        if case["op"] != target.op or case["dtype"] != target.dtype:
            continue
        is_asked = target.sizes or target.dtype != "float32"
        if (
            all(sizes.get(symbol) == size for symbol, size in target.sizes.items())
            if is_asked
            else case["is_main"]
        ):
            return case
    return None
