"""Which curves the report of a run shows, from the records of its log."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from electra_kernels.evaluation.figures import COLOURS, MUTED, PER_ROW, PER_TOKEN, Curve, curves_figure

# Names of the pictures, which are also files: NAME.png.
NAMES = (
    "auc mlm_loss rtd_loss losses metrics shares "
    "gradient_norm learning_rate tokens_per_second time_and_padding memory"
).split()
_SHARES = {
    "mlm_accuracy": "masked tokens predicted",
    "sampled_accuracy": "samples equal to the original",
    "replaced": "tokens replaced",
    "recall": "replaced tokens found at 0.5",
}
_TIME_AND_PADDING = {
    "mfu": "peak FLOP/s used (MFU)",
    "data_wait": "time waiting for data",
    "padding": "cells that are padding",
}
# Names in a record that are no metric of an objective, or have their place in a picture by name.
_PLACED = set(
    "kind time step steps tokens seconds learning_rate muon_learning_rate gradient_norm memory tokens_per_second "
    "steps_per_second auc_random auc_samples auc_samples_frequency base_rate_entropy mlm_loss rtd_loss".split()
).union(_SHARES, _TIME_AND_PADDING)


@dataclass(frozen=True)
class Records:
    """The records of a run that have a curve.

    Attributes:
        steps, evaluations: records of these kinds (`training.log`).
        baselines: ``auc_frequency`` and ``unigram_entropy``, as far as they are known.
        resumed: steps at which the run was resumed.
    """

    steps: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    baselines: Mapping[str, float]
    resumed: Sequence[int] = ()


def learning_pictures(records: Records) -> dict[str, bytes]:
    """Name → PNG: what was learned. Curves of the training text are thin, those of held-out text are thick."""
    evaluations, draw = records.evaluations, _Drawing(records.resumed)
    draw(
        "auc",
        "Finding replaced tokens, held-out text",
        "AUC",
        [
            _curve(evaluations, "auc_random", "fixed random replacements", PER_TOKEN),
            _curve(evaluations, "auc_samples", "the generator's own samples (they get harder)", PER_ROW),
            _curve(evaluations, "auc_samples_frequency", "rarity of the word, on these", PER_ROW, "--"),
        ],
        _level(records, "auc_frequency", "rarity of the word, on random replacements"),
    )
    draw(
        "mlm_loss",
        "Masked language model",
        "nats per masked token",
        _both(records, "mlm_loss"),
        _level(records, "unigram_entropy", "word frequency alone"),
    )
    base_rate = _curve(evaluations, "base_rate_entropy", "always the share of replaced tokens", MUTED, "--")
    draw("rtd_loss", "Replaced-token detection", "nats per token", [*_both(records, "rtd_loss"), base_rate])
    others = _other_metrics(records)
    losses = [name for name in others if name.endswith("_loss")]
    draw("losses", "Losses", "loss", _each(records, losses))
    draw("metrics", "Metrics", "value", _each(records, [name for name in others if name not in losses]))
    shares = [
        _curve(records.steps, name, label, colour)
        for (name, label), colour in zip(_SHARES.items(), COLOURS, strict=False)
    ]
    draw("shares", "Training text", "share", shares, from_zero=True)
    return draw.pictures


def machine_pictures(records: Records) -> dict[str, bytes]:
    """Name → PNG: how the training ran."""
    steps, draw = records.steps, _Drawing(records.resumed)
    draw(
        "gradient_norm",
        "Gradient norm before clipping",
        "norm",
        [_curve(steps, "gradient_norm", "", PER_TOKEN)],
        scale="log",
    )
    rates = [
        _curve(steps, "learning_rate", "AdamW", PER_TOKEN),
        _curve(steps, "muon_learning_rate", "Muon", PER_ROW),
    ]
    draw("learning_rate", "Learning rate", "learning rate", rates, from_zero=True)
    speed = _curve(steps, "tokens_per_second", "", PER_TOKEN)
    draw("tokens_per_second", "Speed", "tokens per second", [speed], from_zero=True)
    shares = [
        _curve(steps, name, label, colour)
        for (name, label), colour in zip(_TIME_AND_PADDING.items(), COLOURS, strict=False)
    ]
    draw("time_and_padding", "Use of the machine", "share", shares, from_zero=True)
    memory = _curve(steps, "memory", "", PER_TOKEN, factor=2.0**-30)
    draw("memory", "Peak memory", "GiB", [memory], from_zero=True)
    return draw.pictures


class _Drawing:
    """Collects pictures; those without a point are left out."""

    def __init__(self, resumed: Sequence[int]) -> None:
        self.resumed = resumed
        self.pictures: dict[str, bytes] = {}

    def __call__(
        self,
        name: str,
        title: str,
        unit: str,
        curves: Iterable[Curve],
        level: tuple[str, float] | None = None,
        **axis: Any,
    ) -> None:
        curves = [curve for curve in curves if curve.points]
        if curves:
            self.pictures[name] = curves_figure(
                title, unit, curves, level=level, resumed=self.resumed, **axis
            )


def _curve(
    records: Sequence[Mapping[str, Any]],
    name: str,
    label: str,
    colour: str,
    style: str = "-",
    *,
    is_faint: bool = False,
    factor: float = 1.0,
) -> Curve:
    points = [(r["step"], factor * r[name]) for r in records if isinstance(r.get(name), int | float)]
    return Curve(label, points, colour, style, is_faint)


def _both(records: Records, name: str, colour: str = PER_TOKEN, label: str = "") -> list[Curve]:
    return [
        _curve(records.steps, name, f"{label} training text".strip(), colour, is_faint=True),
        _curve(records.evaluations, name, f"{label} held-out text".strip(), colour),
    ]


def _each(records: Records, names: Sequence[str]) -> list[Curve]:
    """Both curves of each name, in a colour of its own."""
    return [
        curve
        for name, colour in zip(names, COLOURS, strict=False)
        for curve in _both(records, name, colour, name.removesuffix("_loss").replace("_", " ") + ",")
    ]


def _other_metrics(records: Records) -> list[str]:
    """Names of the metrics, in the order of their first appearance, that have no place of their own."""
    names: dict[str, None] = {}
    for record in (*records.evaluations, *records.steps):
        names |= dict.fromkeys(record)
    return [name for name in names if name not in _PLACED]


def _level(records: Records, name: str, label: str) -> tuple[str, float] | None:
    value = records.baselines.get(name)
    return None if value is None else (label, value)
