"""The pictures of the report and of the comparison, as PNG bytes.

The figures are drawn without pyplot, so the matplotlib back end of the user stays as it is.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from electra_kernels.evaluation.comparison.intervals import Interval

PER_TOKEN, PER_ROW, MUTED = "#1a6e5c", "#c2571a", "#8a8f98"


def _png(draw: Callable[..., None], *arguments: Any, size: tuple[float, float] = (5.2, 3.6)) -> bytes:
    figure = Figure(figsize=size, dpi=110, layout="constrained")
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


def mlm_figure(evaluations: Sequence[dict[str, float]], plateau: float) -> bytes:
    """Held-out loss of the generator against the plateau of word frequencies."""
    return _png(_draw_mlm, evaluations, plateau)


def _draw_mlm(axis: Axes, evaluations: Sequence[dict[str, float]], plateau: float) -> None:
    minutes = [point["seconds"] / 60 for point in evaluations]
    _line(axis, minutes, [p["mlm_loss"] for p in evaluations], PER_TOKEN, "generator")
    axis.axhline(plateau, color=MUTED, linestyle="--", linewidth=1)
    axis.annotate(
        "word frequency alone", (minutes[-1], plateau), fontsize=8, color=MUTED, ha="right", va="bottom"
    )
    axis.set(xlabel="minutes", ylabel="nats per masked token", title="Masked language model, held-out text")


def rtd_figure(evaluations: Sequence[dict[str, float]]) -> bytes:
    """Held-out loss of the discriminator on the generator's samples, against the entropy of its base rate."""
    return _png(_draw_rtd, evaluations)


def _draw_rtd(axis: Axes, evaluations: Sequence[dict[str, float]]) -> None:
    minutes = [point["seconds"] / 60 for point in evaluations]
    _line(axis, minutes, [p["rtd_loss"] for p in evaluations], PER_TOKEN, "discriminator")
    entropy = [p["base_rate_entropy"] for p in evaluations]
    axis.plot(
        minutes,
        entropy,
        "--",
        color=MUTED,
        linewidth=1,
        label="always predicting the share of replaced tokens",
    )
    axis.set(xlabel="minutes", ylabel="nats per token", title="Replaced-token detection, held-out text")
    low, high = min(p["rtd_loss"] for p in evaluations), max(entropy)
    axis.set_ylim(0.7 * low, 1.6 * high)
    axis.legend(fontsize=8, frameon=False)


def auc_figure(evaluations: Sequence[dict[str, float]], frequency: float) -> bytes:
    """AUC on fixed random replacements and on the generator's own samples, against the two baselines."""
    return _png(_draw_auc, evaluations, frequency)


def _draw_auc(axis: Axes, evaluations: Sequence[dict[str, float]], frequency: float) -> None:
    minutes = [point["seconds"] / 60 for point in evaluations]
    _line(axis, minutes, [p["auc_random"] for p in evaluations], PER_TOKEN, "fixed random replacements")
    axis.axhline(
        frequency, color=PER_TOKEN, linestyle="--", linewidth=1, label="rarity of the word, on these"
    )
    if "auc_samples" in evaluations[-1]:
        samples = [p["auc_samples"] for p in evaluations]
        _line(axis, minutes, samples, PER_ROW, "the generator's own samples (they get harder)")
        rarity = [p["auc_samples_frequency"] for p in evaluations]
        axis.plot(minutes, rarity, "--", color=PER_ROW, linewidth=1, label="rarity of the word, on these")
    _chance(axis)
    axis.set(xlabel="minutes", ylabel="AUC", title="Finding replaced tokens, held-out text")
    _finish_auc(axis)


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
    axis.legend(fontsize=8, frameon=False, loc="upper left")


def _line(axis: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str) -> None:
    axis.plot(x, y, color=colour, linewidth=2, label=label)


def _chance(axis: Axes) -> None:
    axis.axhline(0.5, color=MUTED, linestyle=":", linewidth=1)
    axis.annotate("chance", (axis.get_xlim()[1], 0.5), fontsize=8, color=MUTED, ha="right", va="bottom")
