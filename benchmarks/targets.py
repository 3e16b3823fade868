"""What the CPU kernels are to reach at the main sizes, and what a results file says they do."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """``figure`` of the main case of ``op``, or of that of ``sizes`` or ``dtype``; bounds with AVX-512 and without.

    Attributes:
        words: of the figure, with {} for the bound.
        shown: how the figure and its bound are written.
        at_least: whether the figure should be above the bound, or at most that.
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


def speedup(contender: str) -> Callable[[Record], float | None]:
    return lambda case: _figure(case, contender, "speedup")


def times_reading(contender: str) -> Callable[[Record], float | None]:
    return lambda case: _figure(case, contender, "times_reading")


def times(contender: str, other: str) -> Callable[[Record], float | None]:
    """Time as a multiple of another contender's: the median of the ratio within a round."""

    def figure(case: Record) -> float | None:
        own, others = _figure(case, contender, "seconds"), _figure(case, other, "seconds")
        if own is None or others is None:
            return None
        return statistics.median(one / two for one, two in zip(own, others))

    return figure


def added(contender: str, part: str) -> Callable[[Record], float | None]:
    """What the whole takes beyond its part, as a share of the part."""

    def figure(case: Record) -> float | None:
        ratio = times(contender, part)(case)
        return None if ratio is None else ratio - 1

    return figure


def memory(contender: str, other: str) -> Callable[[Record], float | None]:
    def figure(case: Record) -> float | None:
        own, others = (_figure(case, name, "peak_extra_bytes") for name in (contender, other))
        return None if own is None or not others else own / others

    return figure


def _figure(case: Record, contender: str, name: str) -> Any:
    return case["contenders"].get(contender, {}).get(name)


SAMPLE, LOSS = "sample_tokens", "cross_entropy_sample f+b"
LINEAR, STEP = "linear_cross_entropy_sample f+b", "ELECTRA-Small step"
BCE, RTD = "masked_bce_with_logits f+b", "linear_masked_bce f+b"
PRODUCTS = "its three products alone"

TARGETS = [
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


def table(results: Mapping[str, Any]) -> str:
    """The targets and what was reached, in Markdown; a case that the file lacks is "not measured"."""
    return rows(TARGETS, results, results["machine"]["capability"].startswith("AVX512"))


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
