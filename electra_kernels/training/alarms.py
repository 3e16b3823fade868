"""What is going wrong with a run, said while it goes on, with advice.

The thresholds were found by trial with the demo: below them all its runs went well, above them the runs that were
made to fail did not (benchmarks/FINDINGS.md). They are for those sizes; a larger model may be healthy elsewhere.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from electra_kernels.training.trainer import State

_GRADIENT_FACTOR = 20.0  # times the median of the last reports
_RECALL = 0.002
_PLATEAU = 0.98  # of the entropy of the word frequencies
_STRONG_ACCURACY = 0.8
_WEAK_LOSS, _NO_GAIN = 0.35, 0.99  # of the entropy of the share of replaced tokens
_REPORTS = 20


@dataclass(frozen=True)
class Alarm:
    """``name`` of the condition, ``step`` at which it was seen, ``message``: what it is and what to try."""

    name: str
    step: int
    message: str

    def __str__(self) -> str:
        return f"alarm at step {self.step:,}: {self.message}"


class Watch:
    """Looks at the reports of one run; each alarm comes once.

    Args:
        plateau: nats, the entropy of the word frequencies, where a generator stands that knows nothing else.
    """

    def __init__(self, plateau: float = 0.0) -> None:
        self.plateau = plateau
        self.norms: deque[float] = deque(maxlen=_REPORTS)
        self._since: dict[str, float] = {}
        self._given: set[str] = set()

    def see(self, state: State) -> list[Alarm]:
        """The alarms that this report adds: a condition has held for its share of the run without a break."""
        alarms = []
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


@dataclass(frozen=True)
class _Condition:
    name: str
    patience: float  # share of the run
    holds: Callable[[dict[str, float], Watch], bool]
    message: str


def _is_not_finite(metrics: dict[str, float], watch: Watch) -> bool:
    return not all(map(math.isfinite, metrics.values()))


def _explodes(metrics: dict[str, float], watch: Watch) -> bool:
    if len(watch.norms) < _REPORTS // 2:
        return False
    return metrics.get("gradient_norm", 0.0) > _GRADIENT_FACTOR * statistics.median(watch.norms)


def _finds_nothing(metrics: dict[str, float], watch: Watch) -> bool:
    """A discriminator that is sure of no token, but whose loss gains on the base rate, still learns."""
    is_silent = metrics.get("recall", 1.0) < _RECALL
    return is_silent and metrics.get("rtd_loss", math.inf) > _NO_GAIN * _share_entropy(metrics)


def _has_no_label(metrics: dict[str, float], watch: Watch) -> bool:
    return metrics.get("labelled", 1.0) == 0.0


def _is_at_plateau(metrics: dict[str, float], watch: Watch) -> bool:
    return metrics.get("mlm_loss", 0.0) > _PLATEAU * watch.plateau > 0.0


def _is_too_strong(metrics: dict[str, float], watch: Watch) -> bool:
    return metrics.get("mlm_accuracy", 0.0) > _STRONG_ACCURACY


def _is_too_weak(metrics: dict[str, float], watch: Watch) -> bool:
    return metrics.get("rtd_loss", math.inf) < _WEAK_LOSS * _share_entropy(metrics)


def _share_entropy(metrics: dict[str, float]) -> float:
    """Nats per token: the loss of always saying the share of replaced tokens."""
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
        "at the inputs (a row's logits become NaN with it, no other row's do)",
    ),
    _Condition(
        "exploding gradient",
        0.0,
        _explodes,
        f"the gradient's norm is more than {_GRADIENT_FACTOR:.0f} times what it was: clip it (clip=1.0), warm up "
        "longer or lower the learning rate",
    ),
    _Condition(
        "finds nothing",
        0.5,
        _finds_nothing,
        f"for half of the run less than {_RECALL:.1%} of the replaced tokens is found at probability 0.5, and the loss "
        "is that of always saying the majority class: raise the learning rate or the scale of the initial weights, or "
        "let the discriminator begin with replacements that are easier (head_start_replacements='unigram')",
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
        "for 40 % of the run the generator's loss has been that of the word frequencies: it does not read the "
        "context yet. Give it more steps, a higher learning rate or larger initial weights",
    ),
    _Condition(
        "generator too strong",
        0.1,
        _is_too_strong,
        f"the generator is right in more than {_STRONG_ACCURACY:.0%} of the gaps, so hardly any token is replaced: "
        "make it smaller, raise the sampling temperature, or mask more",
    ),
    _Condition(
        "generator too weak",
        0.1,
        _is_too_weak,
        f"the discriminator's loss is below {_WEAK_LOSS:.0%} of that of always saying the share of replaced tokens: "
        "the replacements are too easy to teach more; make the generator larger or train it faster",
    ),
)
