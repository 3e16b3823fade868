"""Scores of a fine-tuning over its seeds, and metrics.json."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from electra_kernels.evaluation.comparison.intervals import Interval, interval
from electra_kernels.finetuning.encoded import Encoded
from electra_kernels.finetuning.parts import Parts
from electra_kernels.finetuning.scores import Scores
from electra_kernels.finetuning.settings import Options, Settings
from electra_kernels.finetuning.task import Task, label_names


@dataclass(frozen=True)
class SeedResult:
    """Scores of one training on the held-out and, if there is one, the test part."""

    seed: int
    epochs: int
    best_epoch: int
    steps: int
    seconds: float
    threshold: float
    dev: Scores
    test: Scores | None
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """A finished fine-tuning; ``best`` is the seed with the best main figure on the held-out part."""

    task: Task
    seeds: list[SeedResult]
    best: SeedResult

    def interval(self, part: str, figure: str) -> Interval:
        """Mean and 95 % interval over the seeds of a figure on "dev" or "test"."""
        return interval([getattr(seed, part).figures[figure] for seed in self.seeds])


def best_seed(results: Sequence[SeedResult], task: Task) -> SeedResult:
    """The seed with the best main figure on the held-out part; the first of equals."""
    return max(results, key=lambda result: result.dev.figures[task.main_figure])


def metrics_of(
    options: Options, settings: Settings, data: Parts, result: Result, is_pretrained: bool
) -> dict[str, Any]:
    """The content of metrics.json."""
    parts = {"train": data.train, "dev": data.dev} | ({"test": data.test} if data.test else {})
    scored = [name for name in ("dev", "test") if getattr(result.best, name) is not None]
    return {
        "finetuning": options.identity(),
        "versions": _versions(),
        "task": asdict(replace(data.task, threshold=result.best.threshold)),
        "settings": asdict(settings) | {"pretrained": is_pretrained},
        "data": {name: _counts(part) for name, part in parts.items()},
        "seeds": [_without_nan(asdict(seed)) for seed in result.seeds],
        "model_seed": result.best.seed,
        **{
            name: {
                figure: _without_nan(asdict(result.interval(name, figure)))
                for figure in getattr(result.best, name).figures
            }
            for name in scored
        },
    }


def _counts(part: Encoded) -> dict[str, Any]:
    return {
        "examples": len(part.examples),
        "words": sum(len(example.words) for example in part.examples),
        "rows": len(part.windows),
        "labels": dict(sorted(Counter(label_names(part.examples)).items())),
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _versions() -> dict[str, Any]:
    """Versions of the packages that decide the figures."""
    names = ("electra_kernels", "torch", "transformers", "datasets", "seqeval", "scikit-learn")
    return {name: version(name) for name in names}
