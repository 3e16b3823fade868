"""Labelled files in; a model, scores and predictions out."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from electra_kernels.evaluation.comparison.intervals import Interval, interval
from electra_kernels.files import replace_folder, write_whole
from electra_kernels.finetuning import pieces
from electra_kernels.finetuning.encoded import Array, Encoded, encode
from electra_kernels.finetuning.held_out import check_dev, split
from electra_kernels.finetuning.labelled import Labelled, check_tags, read_labelled
from electra_kernels.finetuning.labeller import Labeller
from electra_kernels.finetuning.model import (
    encoder_folder,
    has_weights,
    load_config,
    load_model,
    load_tokenizer,
    row_length,
)
from electra_kernels.finetuning.output import METRICS, MODEL, check_output
from electra_kernels.finetuning.scores import Scores, best_threshold
from electra_kernels.finetuning.settings import HELD_OUT, Settings, default_settings
from electra_kernels.finetuning.task import Task, label_names, task_of, versions
from electra_kernels.finetuning.training import Fitted, Report, fit


@dataclass(frozen=True)
class Options:
    """The options of ``electra-kernels finetune``; None stands for a default that depends on model and data."""

    model: Path
    train: Path
    output: Path
    dev: Path | None = None
    test: Path | None = None
    task: str = "tokens"
    column: str | None = None
    text_column: str | None = None
    label_all_pieces: bool = False
    positive: str | None = None
    epochs: int | None = None
    learning_rate: float | None = None
    layer_decay: float | None = None
    batch_size: int | None = None
    patience: int | None = None
    length: int | None = None
    seed: int = 0
    seeds: int = 1
    replace: bool = False

    def identity(self) -> dict[str, Any]:
        """What decides the result, by option, as metrics.json keeps it."""
        chosen = {name: value for name, value in asdict(self).items() if name not in ("output", "replace")}
        return {
            f"--{name.replace('_', '-')}": str(value) if isinstance(value, Path) else value
            for name, value in chosen.items()
        }


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


@dataclass(frozen=True)
class _Data:
    task: Task
    train: Encoded
    dev: Encoded
    test: Encoded | None
    test_file: Labelled | None


# Opens the report of one training, given its title.
Bar = Callable[[str], AbstractContextManager[Report]]


def finetune(
    options: Options,
    *,
    log: Callable[[str], None] = lambda line: None,
    bar: Bar = lambda title: nullcontext(lambda fraction, figures: None),
) -> Result:
    """Train once per seed, and write model, metrics.json and predictions into ``options.output``.

    The folder is replaced as a whole when everything is done; until then it is as it was.

    Raises:
        UserError: a mistake in the options, the model or a file.
    """
    output = options.output.resolve()
    check_output(output, options.identity(), replace=options.replace)
    folder = encoder_folder(options.model)
    tokenizer = load_tokenizer(folder)
    is_pretrained = has_weights(folder)
    length = row_length(folder, tokenizer, options.length)
    data = _read(options, tokenizer, length, log)
    settings = _settings(options, folder, len(data.train.examples), is_pretrained)
    start = folder if is_pretrained else f"random weights, because {folder} has none"
    log(f"start: {start}; {_describe(settings)}")
    results: list[SeedResult] = []

    def write(unfinished: Path) -> None:
        for seed in range(options.seed, options.seed + options.seeds):
            place = unfinished if options.seeds == 1 else unfinished / f"seed-{seed}"
            with bar(f"seed {seed}") as report:
                fitted = fit(
                    lambda: load_model(folder, data.task),
                    tokenizer,
                    data.train,
                    data.dev,
                    settings,
                    seed=seed,
                    scratch=unfinished / "checkpoints",
                    report=report,
                )
            shutil.rmtree(unfinished / "checkpoints", ignore_errors=True)
            results.append(_finish(fitted, tokenizer, data, seed, place))
        best = _best(results, data.task)
        if options.seeds > 1:
            chosen = unfinished / f"seed-{best.seed}"
            shutil.copytree(chosen / MODEL, unfinished / MODEL)
            for predictions in chosen.glob("predictions.*"):
                shutil.copy2(predictions, unfinished)
        metrics = _metrics(options, settings, data, Result(data.task, results, best), is_pretrained)
        write_whole(unfinished / METRICS, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")

    replace_folder(output, write)
    return Result(data.task, results, _best(results, data.task))


def _read(options: Options, tokenizer: Any, length: int, log: Callable[[str], None]) -> _Data:
    """Read and encode all files; what is odd in them is logged."""

    def read(path: Path) -> Labelled:
        labelled = read_labelled(
            path, task=options.task, column=options.column, text_column=options.text_column
        )
        for note in labelled.notes:
            log(f"note: {note}")
        return labelled

    training = read(options.train)
    task = task_of(
        training, positive=options.positive, length=length, label_all_pieces=options.label_all_pieces
    )
    dev = read(options.dev) if options.dev else None
    test = read(options.test) if options.test else None
    for other in (dev, test):
        if other is not None:
            check_tags(other, task.labels)
    if dev is None:
        train_examples, dev_examples = split(training, task, options.seed)
    else:
        check_dev(dev, task)
        train_examples, dev_examples = list(training.examples), list(dev.examples)
    parts = [encode(task, examples, tokenizer) for examples in (train_examples, dev_examples)]
    encoded_test = encode(task, test.examples, tokenizer) if test else None
    held_out = str(options.dev) if dev else f"{HELD_OUT:.0%} of {options.train}"
    log(
        f"{len(train_examples):,} {_noun(task)} to train on, {len(dev_examples):,} held out ({held_out}), "
        f"{len(test.examples) if test else 0:,} to test; {len(task.labels)} labels ({task.scheme})"
    )
    for name, part in zip(("train", "dev", "test"), (*parts, encoded_test)):
        for note in [] if part is None else _notes(part):
            log(f"{name}: {note}")
    return _Data(task, parts[0], parts[1], encoded_test, test)


def _notes(part: Encoded) -> list[str]:
    """What the user should know about the rows of a part."""
    task, rows = part.task, len(part.windows)
    lines = [] if task.task == "sequence" else pieces.notes(part.windows, part.examples)
    if rows > len(part.examples):
        lines.append(f"long {_noun(task)} were divided: {rows:,} rows of at most {task.length} tokens")
    return lines


def _settings(options: Options, folder: Path, examples: int, is_pretrained: bool) -> Settings:
    config = load_config(folder)
    hidden_size = int(getattr(config, "hidden_size", None) or config.dim)
    settings = default_settings(hidden_size, examples, is_pretrained=is_pretrained)
    names = ("epochs", "learning_rate", "layer_decay", "batch_size", "patience")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(settings, **given)


def _finish(fitted: Fitted, tokenizer: Any, data: _Data, seed: int, place: Path) -> SeedResult:
    """Choose the threshold on the held-out part, score both parts, write the model and the predictions."""
    task = data.task
    labeller = Labeller(fitted.model, tokenizer, task)
    dev = labeller.probabilities(data.dev.examples)
    if task.is_binary:
        positive = [tag == task.labels[1] for example in data.dev.examples for tag in example.tags or ()]
        task = replace(task, threshold=best_threshold(positive, _flat(dev)))
        labeller = replace(labeller, task=task)
    place.mkdir(exist_ok=True)
    labeller.save(place / MODEL)
    test_scores = None
    if data.test is not None and data.test_file is not None:
        test = labeller.probabilities(data.test.examples)
        test_scores = replace(data.test, task=task).score(test)
        predicted = labeller.labels(test) if task.task == "sequence" else labeller.tags(test)
        data.test_file.write(predicted, place / f"predictions{data.test_file.suffix}")
    return SeedResult(
        seed,
        len(fitted.epochs),
        fitted.best_epoch(task.main_figure),
        fitted.steps,
        fitted.seconds,
        task.threshold,
        replace(data.dev, task=task).score(dev),
        test_scores,
        [asdict(epoch) for epoch in fitted.epochs],
    )


def _best(results: Sequence[SeedResult], task: Task) -> SeedResult:
    """The seed with the best main figure on the held-out part; the first of equals."""
    return max(results, key=lambda result: result.dev.figures[task.main_figure])


def _metrics(
    options: Options, settings: Settings, data: _Data, result: Result, is_pretrained: bool
) -> dict[str, Any]:
    parts = {"train": data.train, "dev": data.dev} | ({"test": data.test} if data.test else {})
    scored = [name for name in ("dev", "test") if getattr(result.best, name) is not None]
    return {
        "finetuning": options.identity(),
        "versions": versions(),
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


def _flat(probabilities: Sequence[Array]) -> list[float]:
    return [float(p) for words in probabilities for p in words[:, 0]]


def _describe(settings: Settings) -> str:
    return (
        f"up to {settings.epochs} epochs, batches of {settings.batch_size}, learning rate {settings.learning_rate:g}, "
        f"layer decay {settings.layer_decay:g}"
    )


def _noun(task: Task) -> str:
    return "texts" if task.task == "sequence" else "sentences"
