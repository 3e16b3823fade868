"""The picture of a comparison of several budgets: the score over tokens, a panel per task."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from electra_kernels.evaluation.comparison.scores import (
    MODES,
    Record,
    budget_curve,
    budgets_of,
    score,
    tasks_of,
)
from electra_kernels.evaluation.comparison.setting import UNTRAINED
from electra_kernels.evaluation.figures import MUTED

_PANEL = (3.0, 2.7)  # inches
_ROOM = 0.25  # of the range of the means, for the bands; a band of two seeds may be wider than all of it


def budgets_figure(record: Record) -> bytes:
    """PNG: a row of panels per mode and a panel per task; a line per objective with its interval over seeds as a band.

    A line is dashed if labels are per row. The dotted line is the untrained encoder.
    """
    columns = max(len(tasks_of(record, mode)) for mode in MODES)
    size = (_PANEL[0] * columns, _PANEL[1] * len(MODES) + 0.6)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(MODES), columns, squeeze=False)
    for row, mode in zip(panels, MODES):
        tasks = tasks_of(record, mode)
        for axis in row[: columns - len(tasks)]:
            axis.set_axis_off()
        for axis, task in zip(row[columns - len(tasks) :], tasks):
            _draw_panel(axis, record, task, mode)
    handles, labels = panels[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _draw_panel(axis: Axes, record: Record, task: str, mode: str) -> None:
    start = score(record, UNTRAINED, task, mode).mean
    shown = [start]
    for index, (name, facts) in enumerate(record["objectives"].items()):
        points = budget_curve(record, name, task, mode)
        budgets: list[Any] = [budget for budget, _ in points]
        low, high = ([figure.mean + sign * figure.half_width for _, figure in points] for sign in (-1, 1))
        style = "o-" if facts["per"] == "token" else "o--"
        means = [figure.mean for _, figure in points]
        axis.plot(budgets, means, style, color=f"C{index}", linewidth=1.5, markersize=3, label=name)
        axis.fill_between(budgets, low, high, color=f"C{index}", alpha=0.12, linewidth=0)
        shown += means
    axis.axhline(start, color=MUTED, linestyle=":", linewidth=1, label=UNTRAINED)
    room = _ROOM * (max(shown) - min(shown))
    axis.set_ylim(min(shown) - room, max(shown) + room)
    axis.set_xscale("log")
    axis.set_xticks(budgets_of(record))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_locator(NullLocator())
    metric = "AUC" if task not in record["baselines"] else record["baselines"][task]["metric"]
    axis.set_title(f"{task}, {metric}\n{MODES[mode]}", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
