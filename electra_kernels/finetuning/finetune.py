"""Labelled files in; a model, scores and predictions out."""

import errno
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from electra_kernels.files import replace_folder, write_whole
from electra_kernels.finetuning.encoded import Array
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
from electra_kernels.finetuning.parts import Parts, read_parts
from electra_kernels.finetuning.result import Result, SeedResult, best_seed, metrics_of
from electra_kernels.finetuning.scores import best_threshold
from electra_kernels.finetuning.settings import Options, Settings, default_settings
from electra_kernels.finetuning.training import Fitted, Report, fit

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
    data = read_parts(options, tokenizer, length, log)
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
        best = best_seed(results, data.task)
        if options.seeds > 1:
            chosen = unfinished / f"seed-{best.seed}"
            shutil.copytree(chosen / MODEL, unfinished / MODEL)
            for predictions in chosen.glob("predictions.*"):
                shutil.copy2(predictions, unfinished)
        metrics = metrics_of(options, settings, data, Result(data.task, results, best), is_pretrained)
        write_whole(unfinished / METRICS, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")

    try:
        replace_folder(output, write)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"the model cannot be written: {error}", str(options.output)) from error
    return Result(data.task, results, best_seed(results, data.task))


def _settings(options: Options, folder: Path, examples: int, is_pretrained: bool) -> Settings:
    config = load_config(folder)
    hidden_size = int(getattr(config, "hidden_size", None) or config.dim)
    settings = default_settings(hidden_size, examples, is_pretrained=is_pretrained)
    names = ("epochs", "learning_rate", "layer_decay", "batch_size", "patience")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(settings, **given)


def _finish(fitted: Fitted, tokenizer: Any, data: Parts, seed: int, place: Path) -> SeedResult:
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


def _flat(probabilities: Sequence[Array]) -> list[float]:
    return [float(p) for words in probabilities for p in words[:, 0]]


def _describe(settings: Settings) -> str:
    return (
        f"up to {settings.epochs} epochs, batches of {settings.batch_size}, learning rate {settings.learning_rate:g}, "
        f"layer decay {settings.layer_decay:g}"
    )
