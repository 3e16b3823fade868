"""``electra-kernels compare``: objectives side by side, with the same encoder, start, text, budget and probes."""

import json
import math
import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.facts import text_facts
from electra_kernels.data.held_out import halves
from electra_kernels.data.rows import Rows, encode_rows, spread, unigram_counts
from electra_kernels.data.text import Corpus, read_documents, split_held_out
from electra_kernels.data.vocabulary import special_ids, train_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.evaluation.comparison.page import write_page
from electra_kernels.evaluation.comparison.processes import in_processes
from electra_kernels.evaluation.comparison.runs import probe_run, train_run, weights_path
from electra_kernels.evaluation.comparison.setting import (
    SMALL_RECIPE,
    UNTRAINED,
    Run,
    Setting,
    small_encoder,
)
from electra_kernels.evaluation.held_out import FixedCorruption, unigram_entropy
from electra_kernels.evaluation.probing import Task, tasks
from electra_kernels.evaluation.probing.replaced_tokens import replaced_tokens
from electra_kernels.evaluation.report import finite
from electra_kernels.files import write_whole
from electra_kernels.models import ElectraConfig
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training.lock import locked
from electra_kernels.training.objectives import OBJECTIVES

# An untrained generator teaches nothing, so the discriminator begins with draws from the word frequencies, as in the
# demo. With Muon `replaced_tokens` leaves chance sooner: with AdamW one seed of three had not after 1 M tokens. A step
# of Muon costs more, hence 32 rows; the rates and beta2 are from one trial (benchmarks/FINDINGS.md).
RECIPE = replace(
    SMALL_RECIPE,
    batch_size=32,
    learning_rate=3e-3,
    muon_learning_rate=8e-3,
    beta2=0.98,
    head_start=0.35,
    head_start_replacements="unigram",
)
RATES = (1.5e-3, 3e-3)
FITTED_ROWS, JUDGED_ROWS = 1_024, 512
_RESULTS = ("runs", "compare.html", "compare.json", "compare.png")
_PHASES = {"trained": train_run, "probed": probe_run}

Log = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """The options of the command line.

    Attributes:
        output: folder of the page, its curves, compare.json, and the runs with their encoders. Finished runs in it
            are not repeated.
        objectives: names in OBJECTIVES.
        text: files; empty: the documentation that ``pretrain`` fetches.
        tokens: length of each run. The result is the same on every machine of the same precision.
        seconds: length of each run instead of ``tokens``.
        seeds: number of seeds per objective.
        rates: learning rates that are tried with every objective.
        processes: runs at once, each on one thread.
    """

    output: Path
    objectives: Sequence[str]
    text: Sequence[Path] = ()
    tokens: int = 1_000_000
    seconds: float | None = None
    seeds: int = 3
    rates: Sequence[float] = RATES
    processes: int = os.cpu_count() or 1


def names(given: str) -> list[str]:
    """The objectives in a comma-separated list, each once.

    Raises:
        UserError: a name is not in OBJECTIVES.
    """
    found = list(dict.fromkeys(given.split(",")))
    for name in found:
        if name not in OBJECTIVES:
            raise UserError(f"--objectives has {name!r}, should be names among {', '.join(OBJECTIVES)}")
    return found


def compare(options: Options, log: Log) -> Path:
    """Train and probe all objectives, and write the page; returns its path.

    Every learning rate is tried with the first seed. The rate whose frozen encoder finds replaced tokens best, in
    held-out text that is used for nothing else, is the rate of the objective.

    Args:
        options: the options of the command line.
        log: called with each line of progress.

    Raises:
        UserError: an option or the text cannot be used, the folder holds runs of another text or length, or another
            process writes there.
        KeyboardInterrupt: the comparison was stopped; its argument says where the finished runs are.
    """
    try:
        with locked(options.output):
            return _compare(options, log)
    except KeyboardInterrupt as stop:
        raise type(stop)(
            f"the finished runs are in {options.output / 'runs'} and will not run again"
        ) from None


def _compare(options: Options, log: Log) -> Path:
    folder = options.output / "runs"
    setting, facts = _setting(options, log)
    _require_same_setting(options.output / "setting.json", facts)
    folder.mkdir(exist_ok=True)
    path = folder / "setting.pickle"
    write_whole(path, pickle.dumps(setting))
    train, probe = (partial(_records, phase, path, options.processes, log) for phase in _PHASES)
    tried = train([Run(name, rate, 0) for name in options.objectives for rate in options.rates])
    chosen = {name: _best_rate(name, tried) for name in options.objectives} | {UNTRAINED: 0.0}
    runs = [Run(name, rate, seed) for name, rate in chosen.items() for seed in range(options.seeds)]
    trained, probed = train(runs), probe(runs)
    record = {
        **facts,
        "seeds": options.seeds,
        "rates": list(options.rates),
        "processes": options.processes,
        "objectives": {name: _described(name) for name in options.objectives},
        "baselines": {
            task.name: {"metric": task.metric, "per": task.per, **task.baselines} for task in setting.tasks
        },
        "curve_baseline": setting.curve.baselines,
        "tried": tried,
        "runs": [training | probes for training, probes in zip(trained, probed)],
    }
    write_whole(options.output / "compare.json", json.dumps(finite(record), indent=1, allow_nan=False) + "\n")
    return write_page(options.output, record)


def _require_same_setting(path: Path, facts: dict[str, Any]) -> None:
    """Runs of an earlier comparison are reused only if they share everything in ``facts`` with the new ones."""
    try:
        earlier = dict(json.loads(path.read_text())) if path.exists() else facts
    except (ValueError, TypeError):
        raise UserError(
            f"{path} is not from a comparison of electra-kernels: use another --output, or remove it"
        ) from None
    foreign = [] if path.exists() else [name for name in _RESULTS if (path.parent / name).exists()]
    if foreign:
        raise UserError(
            f"--output {path.parent} holds {foreign[0]}, which is not from electra-kernels compare: choose another "
            "folder, or move it away"
        )
    changed = [
        f"{name} was {earlier.get(name)} and is {facts.get(name)}"
        for name in {**earlier, **facts}
        if earlier.get(name) != facts.get(name)
    ]
    if changed:
        raise UserError(
            f"--output {path.parent} holds runs of another comparison: {'; '.join(changed)}; use a new folder"
        )
    write_whole(path, json.dumps(facts, indent=1) + "\n")


def _records(
    phase: str, setting: Path, processes: int, log: Log, runs: Sequence[Run]
) -> list[dict[str, Any]]:
    """The records of all runs, in their order; records that lie beside the setting are read, not made again."""
    folder = setting.parent
    files = {run: folder / f"{run.name}-{phase}.json" for run in runs}
    missing = [run for run, file in files.items() if not _is_current(file, weights_path(folder, run))]
    with closing(in_processes(_PHASES[phase], setting, missing, processes)) as records:
        for count, record in enumerate(records, start=1):
            run = Run(**{name: record[name] for name in Run.__dataclass_fields__})
            write_whole(files[run], json.dumps(record) + "\n")
            log(f"{count:3} of {len(missing)}  {run.name:32} {_line(record)}")
            for alarm in record.get("alarms", ()):
                log(f"     {alarm}")
    return [json.loads(file.read_text()) for file in files.values()]


def _is_current(record: Path, encoder: Path) -> bool:
    """Whether a record belongs to the saved encoder: it is not older."""
    return record.exists() and encoder.exists() and record.stat().st_mtime_ns >= encoder.stat().st_mtime_ns


def _line(record: dict[str, Any]) -> str:
    if "curve" in record:
        return f"{record['tokens']:10,} tokens  AUC {record['curve'][-1]['figure']:.3f}"
    return "  ".join(f"{task} {figures['frozen']:.3f}" for task, figures in record["probes"].items())


def _best_rate(name: str, tried: Sequence[dict[str, Any]]) -> float:
    own = [run for run in tried if run["objective"] == name]
    best = max(own, key=lambda run: -math.inf if math.isnan(run["choice"]) else run["choice"])
    return float(best["learning_rate"])


def _described(name: str) -> dict[str, str]:
    kind = OBJECTIVES[name]
    return {field: getattr(kind, field) for field in ("per", "labels", "detects", "cannot_detect")}


def _setting(options: Options, log: Log) -> tuple[Setting, dict[str, Any]]:
    """The setting that the runs share, and the facts about it for the page."""
    corpus = split_held_out(read_documents(options.text) if options.text else documentation_text(log))
    tokenizer = train_vocabulary(corpus.train, RECIPE.vocab_size)
    # Every other held-out document serves only the choice of the learning rate.
    choice, judged = halves(corpus.held_out)
    rows, choice_rows, judged_rows = (
        encode_rows(part, tokenizer, RECIPE.length) for part in (corpus.train, choice, judged)
    )
    counts = unigram_counts(rows, tokenizer.get_vocab_size())
    word_pieces = int(rows.maskable.sum())
    log(f"{word_pieces:,} word pieces to train on; making the tasks")
    setting = Setting(
        config=_config(tokenizer),
        text=text_facts(tokenizer, counts),
        rows=rows,
        recipe=replace(RECIPE, steps=_steps(options, rows)),
        minutes=None if options.seconds is None else options.seconds / 60,
        plateau=unigram_entropy(judged_rows, counts),
        curve=_curve_task(rows, judged_rows, counts),
        choice=_curve_task(rows, choice_rows, counts),
        tasks=tasks(Corpus(corpus.train, judged, corpus.overlap), tokenizer, RECIPE.length, 0, log),
    )
    facts = {
        "documents": len(corpus.train),
        "held_out_documents": len(judged),
        "choice_documents": len(choice),
        "word_pieces": word_pieces,
        "vocab_size": tokenizer.get_vocab_size(),
        "length": RECIPE.length,
        "batch_size": RECIPE.batch_size,
        "seconds": options.seconds,
        "steps": setting.recipe.steps,
        "recipe": setting.recipe.to_dict(),
        "bfloat16": has_native_bfloat16(torch.device("cpu")),
        "torch": torch.__version__,
    }
    return setting, facts


def _steps(options: Options, rows: Rows) -> int:
    tokens_per_step = RECIPE.batch_size * float(rows.attention_mask.sum()) / len(rows.input_ids)
    return max(1, round(options.tokens / tokens_per_step))


def _config(tokenizer: Tokenizer) -> ElectraConfig:
    """The small encoder and a generator of half its depth, with the same embeddings, for objectives that need one."""
    encoder = small_encoder(tokenizer.get_vocab_size())
    generator = replace(encoder, num_hidden_layers=max(1, encoder.num_hidden_layers // 2))
    return ElectraConfig(encoder, generator, special_ids(tokenizer).mask)


def _curve_task(rows: Rows, held_out: Rows, counts: Tensor) -> Task:
    """The task of the learning curves: which tokens were replaced by draws from the word frequencies?"""
    fitted, judged = spread(rows, FITTED_ROWS), spread(held_out, JUDGED_ROWS)
    return replaced_tokens(FixedCorruption(fitted, counts), FixedCorruption(judged, counts))
