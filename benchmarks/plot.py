"""``python -m benchmarks.plot [RESULTS]``: draw a results file to a PNG beside it, and print its table of targets."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import results, targets

OURS, LOWER, OTHERS, MUTED = "#1a6e5c", "#8fbfb2", "#c9ccd1", "#8a8f98"
_ROW, _MARGINS = 0.24, 1.7  # inches


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        help="file that `python -m benchmarks` wrote (default: that of this machine)",
    )
    path = parser.parse_args().results or results.FOLDER / f"{results.machine()['name']}.json"
    if not path.exists():
        parser.error(f"{path} does not exist: run `python -m benchmarks` first")
    measured = results.read(path)
    picture = path.with_suffix(".png")
    draw(measured, picture)
    print(f"{picture}\n\n{targets.table(measured)}")


def draw(measured: Mapping[str, Any], picture: Path) -> None:
    """Draw each op's speed relative to eager at its main size, and the time that a step adds to its encoders.

    Raises:
        ValueError: no case is at its main size.
    """
    main = [case for case in measured["cases"] if case["is_main"]]
    ops = [case for case in main if not case["adds_to_baseline"]]
    steps = [case for case in measured["cases"] if case["adds_to_baseline"]]
    if not ops:
        raise ValueError("measured has no case at its main size, should come from a run without --quick")
    heights = [_rows(ops), max(1, _rows(steps))]
    figure = Figure(figsize=(8.4, _ROW * sum(heights) + _MARGINS), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=heights)
    _draw_speed(upper, ops)
    _draw_steps(lower, steps)
    machine = measured["machine"]
    where = machine.get(
        "gpu", f"{machine['processor']}, {machine['capability']}, {machine['threads']} threads"
    )
    upper.set_title(
        f"Times as fast as eager PyTorch\n{where}, torch {machine['torch']}", fontsize=11, loc="left"
    )
    figure.savefig(picture, dpi=110)


def _rows(cases: Sequence[Mapping[str, Any]]) -> int:
    """Lines of the plot: a headline per case, and a bar per variant except the baseline."""
    return sum(len(case["variants"]) for case in cases)


def _draw_speed(axis: Axes, cases: Sequence[Mapping[str, Any]]) -> None:
    def speed(figures: Mapping[str, Any]) -> float:
        return float(figures["speedup"])

    _bars(axis, cases, speed, "{:.3g}x", origin=1.0)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(low / 1.6, high * 1.6)
    axis.axvline(1, color=MUTED, linewidth=1)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")


def _draw_steps(axis: Axes, cases: Sequence[Mapping[str, Any]]) -> None:
    def added(figures: Mapping[str, Any]) -> float:
        return 100 * (1 / float(figures["speedup"]) - 1)

    _bars(axis, cases, added, "{:.1f} %", origin=0.0)
    axis.set_title("Time that the rest of the step adds to the encoders, per cent", fontsize=11, loc="left")
    axis.margins(x=0.12)


def _bars(axis: Axes, cases: Sequence[Mapping[str, Any]], value: Any, shown: str, *, origin: float) -> None:
    """One group per case from top to bottom: its name, then a bar from ``origin`` per variant except the baseline."""
    labels: list[str] = []
    for case in cases:
        sizes = ", ".join(f"{symbol} {size:,}" for symbol, size in case["sizes"].items())
        dtype = "" if case["dtype"] == "float32" else f", {case['dtype']}"
        labels.append(f"$\\bf{{{_bold(case['op'])}}}$  {sizes}{dtype}")
        for variant, figures in case["variants"].items():
            if variant == case["baseline"]:
                continue
            number = value(figures)
            axis.barh(len(labels), number - origin, left=origin, height=0.7, color=_colour(variant))
            axis.annotate(
                shown.format(number),
                (number, len(labels)),
                xytext=(3 if number >= origin else -3, 0),
                textcoords="offset points",
                ha="left" if number >= origin else "right",
                va="center",
                fontsize=8,
            )
            labels.append(variant)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylim(len(labels) - 0.5, -0.7)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _bold(text: str) -> str:
    """Escaped for matplotlib's mathematical text."""
    return text.replace("_", r"\_").replace(" ", r"\ ").replace("-", r"{-}")


def _colour(variant: str) -> str:
    if variant in ("ours", "ours in place"):
        return OURS
    return LOWER if variant.startswith("ours") else OTHERS


if __name__ == "__main__":
    main()
