"""The pictures of the report and of the comparison, as PNG bytes.

The figures are drawn without pyplot, so the matplotlib back end of the user stays as it is.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogFormatter

from electra_kernels.evaluation.comparison.intervals import Interval

PER_TOKEN, PER_ROW, MUTED = "#1a6e5c", "#c2571a", "#8a8f98"
COLOURS = (PER_TOKEN, PER_ROW, "#4b5fa8", "#a23b72", "#b8901d", "#5c6b73")
_BINS = 300  # points of a curve that is drawn
_LARGE = 10_000  # a value from which an axis has k and M instead of zeros


def _png(draw: Callable[..., None], *arguments: Any, size: tuple[float, float] = (5.2, 3.6)) -> bytes:
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    canvas, axis = FigureCanvasAgg(figure), figure.subplots()
    draw(axis, *arguments)
    axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def pair_rows_figure(pair: dict[str, Any]) -> bytes:
    """AUC of both sides of the controlled pair at telling corrupted rows from clean ones."""
    return _png(_draw_pair_rows, pair)


def _draw_pair_rows(axis: Axes, pair: dict[str, Any]) -> None:
    steps = [point["step"] for point in pair["curve"]]
    _line(axis, steps, [p["per_token_rows"] for p in pair["curve"]], PER_TOKEN, "trained per token")
    _line(axis, steps, [p["per_row_rows"] for p in pair["curve"]], PER_ROW, "trained per sequence")
    _finish_pair(axis, "Was anything in this row replaced?")


def pair_tokens_figure(pair: dict[str, Any]) -> bytes:
    """AUC at finding the replaced tokens: the head of the side with a label per token, and probes of both encoders."""
    return _png(_draw_pair_tokens, pair)


def _draw_pair_tokens(axis: Axes, pair: dict[str, Any]) -> None:
    steps = [point["step"] for point in pair["curve"]]
    _line(
        axis, steps, [p["per_token_tokens"] for p in pair["curve"]], PER_TOKEN, "trained per token: its head"
    )
    for name, colour, label in (
        ("per_token", PER_TOKEN, "trained per token: probe of the frozen encoder"),
        ("per_row", PER_ROW, "trained per sequence: probe of the frozen encoder"),
    ):
        axis.plot([steps[-1]], [pair["probe"][name]], "D", color=colour, label=label, clip_on=False)
    _finish_pair(axis, "Which token?")


def _finish_pair(axis: Axes, title: str) -> None:
    _chance(axis)
    axis.set(xlabel="step", ylabel="AUC, held-out text", title=title)
    _finish_auc(axis)


def comparison_figure(
    curves: Mapping[str, Sequence[tuple[float, Interval]]],
    objectives: Mapping[str, Mapping[str, str]],
    baseline: tuple[str, float],
) -> bytes:
    """AUC over tokens seen, with its interval over seeds, per objective; a curve is dashed if labels are per row."""
    return _png(_draw_comparison, curves, objectives, baseline, size=(8.6, 4.6))


def _draw_comparison(
    axis: Axes,
    curves: Mapping[str, Sequence[tuple[float, Interval]]],
    objectives: Mapping[str, Mapping[str, str]],
    baseline: tuple[str, float],
) -> None:
    for index, (name, points) in enumerate(curves.items()):
        tokens = [point[0] / 1e6 for point in points]
        means = [point[1].mean for point in points]
        low, high = ([figure.mean + sign * figure.half_width for _, figure in points] for sign in (-1, 1))
        style = "-" if objectives[name]["per"] == "token" else "--"
        colour = f"C{index}"
        axis.plot(tokens, means, style, color=colour, linewidth=2, label=name)
        axis.fill_between(tokens, low, high, color=colour, alpha=0.15, linewidth=0)
    rule, figure = baseline
    axis.axhline(figure, color=MUTED, linestyle=":", linewidth=1, label=rule)
    axis.set(xlabel="million tokens seen", ylabel="AUC, held-out text, frozen encoder")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


@dataclass(frozen=True)
class Curve:
    """One line of a `curves_figure`.

    Attributes:
        label: in the legend; without any label there is no legend.
        points: (step, value), in the order of the steps; a value of None or NaN is left out.
        colour, style: of matplotlib.
        is_faint: thin: a training curve beside that of held-out text.
    """

    label: str
    points: Sequence[tuple[float, float | None]]
    colour: str
    style: str = "-"
    is_faint: bool = False


def curves_figure(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    *,
    level: tuple[str, float] | None = None,
    resumed: Sequence[int] = (),
    scale: str = "linear",
    from_zero: bool = False,
) -> bytes:
    """Curves over the steps of a run.

    Args:
        title, unit: above the picture and at its vertical axis. The unit "AUC" adds the line of chance.
        curves: of many points, the means of neighbours are drawn, in a band from the smallest to the largest.
        level: label and value of a dashed horizontal line.
        resumed: steps at which the run was resumed; each gets a dotted vertical line.
        scale: of the vertical axis, "linear" or "log"; without a value above 0 it is linear.
        from_zero: whether the vertical axis begins at 0.
    """

    def draw(axis: Axes) -> None:
        for step in resumed:
            axis.axvline(step, color=MUTED, linestyle=":", linewidth=1)
        for curve in curves:
            _draw_curve(axis, curve)
        if level is not None:
            axis.axhline(level[1], color=MUTED, linestyle="--", linewidth=1, label=level[0])
        axis.set(xlabel="step", ylabel=unit, title=title)
        _scale_axes(axis, scale)
        if from_zero:
            axis.set_ylim(0.0, 1.25 * axis.get_ylim()[1])
        if unit == "AUC":
            _chance(axis)
            _finish_auc(axis)
        elif level is not None or any(curve.label for curve in curves):
            axis.margins(y=0.25)  # room for the legend
            axis.legend(fontsize=8, frameon=False)

    return _png(draw)


def _scale_axes(axis: Axes, scale: str) -> None:
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if scale == "log" and math.isfinite(axis.dataLim.minposy):  # infinite: no value is above 0
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(LogFormatter())
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2.0, 0.5)))
    elif axis.get_ylim()[1] > _LARGE:
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_curve(axis: Axes, curve: Curve) -> None:
    points = [(step, value) for step, value in curve.points if value is not None and math.isfinite(value)]
    groups = np.array_split(np.array(points, dtype=float).reshape(-1, 2), max(1, min(_BINS, len(points))))
    steps, means = np.array([group.mean(0) for group in groups if len(group)]).reshape(-1, 2).T
    low, high = (
        np.array([extreme(group[:, 1]) for group in groups if len(group)]) for extreme in (np.min, np.max)
    )
    axis.plot(
        steps,
        means,
        curve.style,
        color=curve.colour,
        marker="o" if len(points) == 1 else "",
        linewidth=1.0 if curve.is_faint else 2.0,
        alpha=0.6 if curve.is_faint else 1.0,
        label=curve.label,
    )
    axis.fill_between(steps, low, high, color=curve.colour, alpha=0.12, linewidth=0)


def step_figure(seconds: dict[str, float]) -> bytes:
    """The time of one step by part."""
    return _png(_draw_step, seconds)


def _draw_step(axis: Axes, seconds: dict[str, float]) -> None:
    names, total = list(seconds), sum(seconds.values())
    bars = axis.barh(names[::-1], [1e3 * seconds[name] for name in names[::-1]], color=PER_TOKEN, height=0.6)
    axis.bar_label(bars, [f"{seconds[name] / total:.0%}" for name in names[::-1]], padding=3, fontsize=9)
    axis.set(xlabel="milliseconds, forward and backward", title="One step")


def _finish_auc(axis: Axes) -> None:
    """Set limits that show every curve and leave room for the legend above them."""
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.45), max(high + 0.2, 0.95))
    axis.set_yticks([tick for tick in axis.get_yticks() if axis.get_ylim()[0] <= tick <= 1.0])
    axis.legend(fontsize=8, frameon=False, loc="upper left")


def _line(axis: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str) -> None:
    axis.plot(x, y, color=colour, linewidth=2, label=label)


def _chance(axis: Axes) -> None:
    axis.axhline(0.5, color=MUTED, linestyle=":", linewidth=1)
    axis.annotate("chance", (axis.get_xlim()[1], 0.5), fontsize=8, color=MUTED, ha="right", va="bottom")
