"""Alarms: while a training runs, they say what goes wrong with it and what to try.

The thresholds were found by trial with the demo: its healthy runs stayed below them, and the runs that were made to
fail went above (benchmarks/FINDINGS.md). They fit those sizes; a larger model may be healthy at other values.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from electra_kernels.training.log import StepRecord

# The limit of the gradient norm, as a multiple of the median over the last _REPORTS reports.
_GRADIENT_FACTOR = 20.0
_REPORTS = 20
_RECALL = 0.002
_MEAN_REPORTS = 10  # over about so many reports the loss of the rows is averaged
_PLATEAU = 0.98  # share of the entropy of the word frequencies
_STRONG_ACCURACY = 0.8
_WEAK_LOSS, _NO_GAIN = 0.35, 0.99  # shares of the entropy of the replaced share


@dataclass(frozen=True)
class Alarm:
    """A condition of the training that needs attention.

    Attributes:
        name: name of the condition.
        step: step at which it was noticed.
        message: the fault, and a remedy to try.
    """

    name: str
    step: int
    message: str

    def __str__(self) -> str:
        return f"alarm at step {self.step:,}: {self.message}"


class Monitor:
    """Checks the reports of one training; gives each alarm once.

    After a resume a new monitor first checks the records before it (`RunLog.step_records`), so that a break neither
    repeats an alarm nor ends a condition.

    Args:
        plateau: nats, the entropy of the word frequencies: the loss of a generator that knows nothing else. 0 turns
            the alarm about the plateau off.
    """

    def __init__(self, plateau: float = 0.0) -> None:
        self.plateau = plateau
        self.norms: deque[float] = deque(maxlen=_REPORTS)
        self.row_loss = math.nan
        self._since: dict[str, float] = {}
        self._given: set[str] = set()

    def check(self, state: StepRecord) -> list[Alarm]:
        """The new alarms, for conditions that have held without a break for their share of the training."""
        alarms = []
        self._average(state.metrics.get("row_loss", math.nan))
        for condition in _CONDITIONS:
            if not condition.holds(state.metrics, self):
                self._since.pop(condition.name, None)
                continue
            since = self._since.setdefault(condition.name, state.fraction)
            if state.fraction - since >= condition.patience and condition.name not in self._given:
                self._given.add(condition.name)
                alarms.append(Alarm(condition.name, state.step, condition.message))
        norm = state.metrics.get("gradient_norm", math.nan)
        if math.isfinite(norm):
            self.norms.append(norm)
        return alarms

    def _average(self, row_loss: float) -> None:
        """Follow the loss of the rows. One report has a few hundred labels and is too noisy to compare with ln 2."""
        if not math.isfinite(row_loss):
            return
        before = row_loss if math.isnan(self.row_loss) else self.row_loss
        self.row_loss = before + (row_loss - before) / _MEAN_REPORTS


@dataclass(frozen=True)
class _Condition:
    name: str
    patience: float  # share of the training during which the condition must hold
    holds: Callable[[Mapping[str, float], Monitor], bool]
    message: str


def _is_not_finite(metrics: Mapping[str, float], monitor: Monitor) -> bool:
    # A ratio such as the precision has no value where nothing was found, nor has a loss where no row has a label.
    endings = ("gradient_norm",) if _has_no_label(metrics, monitor) else ("_loss", "gradient_norm")
    watched = (value for name, value in metrics.items() if name.endswith(endings))
    return not all(map(math.isfinite, watched))


def _explodes(metrics: Mapping[str, float], monitor: Monitor) -> bool:
    """Two reports in a row are too high. A single one may be a bad batch, or the end of a head start."""
    if len(monitor.norms) < _REPORTS // 2:
        return False
    limit = _GRADIENT_FACTOR * statistics.median(monitor.norms)
    return min(metrics.get("gradient_norm", 0.0), monitor.norms[-1]) > limit


def _finds_nothing(metrics: Mapping[str, float], monitor: Monitor) -> bool:
    """Recall near 0 is no alarm while the loss is below that of the base rate: the discriminator still learns."""
    is_silent = metrics.get("recall", 1.0) < _RECALL
    return is_silent and metrics.get("rtd_loss", math.inf) > _NO_GAIN * _share_entropy(metrics)


def _guesses_rows(metrics: Mapping[str, float], monitor: Monitor) -> bool:
    """Half of the rows are changed, so the loss of a constant guess is ln 2."""
    return "row_loss" in metrics and monitor.row_loss > _NO_GAIN * math.log(2)


def _has_no_label(metrics: Mapping[str, float], monitor: Monitor) -> bool:
    return metrics.get("labelled", 1.0) == 0.0


def _is_at_plateau(metrics: Mapping[str, float], monitor: Monitor) -> bool:
    return metrics.get("mlm_loss", 0.0) > _PLATEAU * monitor.plateau > 0.0


def _is_too_strong(metrics: Mapping[str, float], monitor: Monitor) -> bool:
    return metrics.get("mlm_accuracy", 0.0) > _STRONG_ACCURACY


def _is_too_weak(metrics: Mapping[str, float], monitor: Monitor) -> bool:
    return metrics.get("rtd_loss", math.inf) < _WEAK_LOSS * _share_entropy(metrics)


def _share_entropy(metrics: Mapping[str, float]) -> float:
    """Nats per token: the loss of a discriminator that always gives the share of replaced tokens as probability."""
    share = metrics.get("replaced", 0.0)
    if not 0.0 < share < 1.0:
        return 0.0
    return -share * math.log(share) - (1.0 - share) * math.log1p(-share)


_CONDITIONS = (
    _Condition(
        "not finite",
        0.0,
        _is_not_finite,
        "a loss is NaN or infinite, so some row has numbers that are not finite: lower the learning rate, or look "
        "at the inputs (only the logits of that row become NaN)",
    ),
    _Condition(
        "exploding gradient",
        0.0,
        _explodes,
        f"the gradient's norm stays at more than {_GRADIENT_FACTOR:.0f} times its recent median: clip it (clip=1.0), "
        "warm up longer or lower the learning rate",
    ),
    _Condition(
        "finds nothing",
        0.5,
        _finds_nothing,
        f"for half of the run the discriminator has found less than {_RECALL:.1%} of the replaced tokens at "
        "probability 0.5, and its loss is that of a constant guess: raise the learning rate or the scale of the "
        "initial weights, or let it begin with easier replacements (head_start_replacements='unigram')",
    ),
    _Condition(
        "guesses the rows",
        0.5,
        _guesses_rows,
        "for half of the run the loss of the rows has been that of a constant guess: train longer, raise or lower the "
        "learning rate, or take an objective with a label per token",
    ),
    _Condition(
        "no label",
        0.02,
        _has_no_label,
        "no row has a label, so nothing is learned: the text has too few sentences in a row, or too few documents",
    ),
    _Condition(
        "generator at the plateau",
        0.4,
        _is_at_plateau,
        "for 40 % of the run the generator's loss has been that of the word frequencies: it does not use the "
        "context yet. Give it more steps, a higher learning rate or larger initial weights",
    ),
    _Condition(
        "generator too strong",
        0.1,
        _is_too_strong,
        f"the generator predicts more than {_STRONG_ACCURACY:.0%} of the masked tokens, so it replaces hardly any: "
        "make it smaller, raise the sampling temperature, or mask more",
    ),
    _Condition(
        "generator too weak",
        0.1,
        _is_too_weak,
        f"the discriminator's loss is below {_WEAK_LOSS:.0%} of that of a constant guess: the replacements are too "
        "easy to teach it more. Make the generator larger or train it faster",
    ),
)
