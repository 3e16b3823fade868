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

from electra_kernels.commands.progress import Progress
from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.rows import Rows, encode_rows, spread, unigram_counts
from electra_kernels.data.text import Corpus, read_documents, split_held_out
from electra_kernels.data.vocabulary import special_ids, train_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.evaluation.comparison.page import write_page
from electra_kernels.evaluation.comparison.runs import (
    UNTRAINED,
    Run,
    Setting,
    carry_out,
    in_processes,
    measure,
    weights,
)
from electra_kernels.evaluation.held_out import EVALUATION_SEED, rarity, unigram_entropy
from electra_kernels.evaluation.pair import PER_TOKEN, pair_encoder
from electra_kernels.evaluation.probing import Examples, Task, tasks
from electra_kernels.evaluation.probing.task import area
from electra_kernels.evaluation.report import finite
from electra_kernels.files import write_whole
from electra_kernels.models import ElectraConfig
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.models.unigram import Unigram
from electra_kernels.training.lock import locked
from electra_kernels.training.objectives import OBJECTIVES, text_facts
from electra_kernels.training.objectives.corrupted import corrupt

# The pair's encoder, text rows and vocabulary: small enough for tens of runs in minutes. A generator that has
# learned nothing teaches nothing, so what it feeds begins with draws from the word frequencies, as in the demo.
# With Muon `replaced_tokens` leaves chance sooner: with AdamW one seed of three had not after 1 M tokens. Its steps
# cost more, hence 32 rows; the rates and beta2 are from one trial (benchmarks/FINDINGS.md).
RECIPE = replace(
    PER_TOKEN,
    batch_size=32,
    learning_rate=3e-3,
    muon_learning_rate=8e-3,
    beta2=0.98,
    head_start=0.35,
    head_start_replacements="unigram",
)
RATES = (1.5e-3, 3e-3)
_RESULTS = ("runs", "compare.html", "compare.json", "compare.png")
FITTED_ROWS, JUDGED_ROWS = 1_024, 512


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        output: folder of the page, its curves, compare.json and the runs with their encoders, which a comparison that
            is begun again keeps.
        objectives: names of OBJECTIVES.
        text: files; none: the documentation that ``pretrain`` fetches.
        tokens, seconds: length of each run; seconds, if they are given. Tokens give the same on every machine
            of the same precision.
        seeds: how many.
        rates: learning rates that every objective is tried with.
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


def compare(options: Options, progress: Progress) -> Path:
    """Run it all; returns the path of the page.

    Every learning rate is tried with the first seed; the one whose frozen encoder finds replaced tokens best, in
    held-out text that nothing else is measured on, is the objective's.

    Raises:
        UserError: a mistake in the options or the text, the folder holds runs of another text or length, or another
            process writes there.
        KeyboardInterrupt: with a line that says where the finished runs are.
    """
    try:
        with locked(options.output):
            return _compare(options, progress)
    except KeyboardInterrupt as stop:
        raise type(stop)(
            f"the finished runs are in {options.output / 'runs'} and will not run again"
        ) from None


def _compare(options: Options, progress: Progress) -> Path:
    folder = options.output / "runs"
    setting, facts = _setting(options, progress.say)
    _require_same_setting(options.output / "setting.json", facts)
    folder.mkdir(exist_ok=True)
    path = folder / "setting.pickle"
    write_whole(path, pickle.dumps(setting))
    train, probe = (partial(_results, step, path, options.processes, progress) for step in _STEPS)
    tried = train([Run(name, rate, 0) for name in options.objectives for rate in options.rates])
    chosen = {name: _best_rate(name, tried) for name in options.objectives} | {UNTRAINED: 0.0}
    runs = [Run(name, rate, seed) for name, rate in chosen.items() for seed in range(options.seeds)]
    trained = train(runs)
    probed = probe(runs)
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
        "runs": [run | of_run for run, of_run in zip(trained, probed)],
    }
    write_whole(options.output / "compare.json", json.dumps(finite(record), indent=1, allow_nan=False) + "\n")
    return write_page(options.output, record)


def _require_same_setting(path: Path, facts: dict[str, Any]) -> None:
    """Runs of an earlier comparison stand beside new ones only if nothing that they share has changed."""
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
            f"--output {path.parent} holds runs of another comparison: {'; '.join(changed)}; use a new one"
        )
    write_whole(path, json.dumps(facts, indent=1) + "\n")


_STEPS = {"trained": carry_out, "probed": measure}


def _results(
    step: str, setting: Path, processes: int, progress: Progress, runs: Sequence[Run]
) -> list[dict[str, Any]]:
    """Of all runs, in their order; those that an earlier call has left beside the setting are read."""
    folder = setting.parent
    files = {run: folder / f"{run.name}-{step}.json" for run in runs}
    missing = [run for run, file in files.items() if not _is_current(file, weights(folder, run))]
    with closing(in_processes(_STEPS[step], setting, missing, processes)) as results:
        for count, result in enumerate(results, start=1):
            run = Run(**{name: result[name] for name in Run.__dataclass_fields__})
            write_whole(files[run], json.dumps(result) + "\n")
            progress.say(f"{count:3} of {len(missing)}  {run.name:32} {_line(result)}")
            for alarm in result.get("alarms", ()):
                progress.say(f"     {alarm}")
    return [json.loads(file.read_text()) for file in files.values()]


def _is_current(result: Path, encoder: Path) -> bool:
    """Whether a result is of the encoder that is kept: it was written after it."""
    return result.exists() and encoder.exists() and result.stat().st_mtime_ns >= encoder.stat().st_mtime_ns


def _line(result: dict[str, Any]) -> str:
    if "curve" in result:
        return f"{result['tokens']:10,} tokens  AUC {result['curve'][-1]['figure']:.3f}"
    return "  ".join(f"{task} {figures['frozen']:.3f}" for task, figures in result["probes"].items())


def _best_rate(name: str, tried: Sequence[dict[str, Any]]) -> float:
    own = [run for run in tried if run["objective"] == name]
    return float(
        max(own, key=lambda run: -math.inf if math.isnan(run["choice"]) else run["choice"])["learning_rate"]
    )


def _described(name: str) -> dict[str, str]:
    kind = OBJECTIVES[name]
    return {field: getattr(kind, field) for field in ("per", "labels", "detects", "cannot_detect")}


def _setting(options: Options, say: Callable[[str], None]) -> tuple[Setting, dict[str, Any]]:
    """What the runs share, and what the page says of it."""
    corpus = split_held_out(read_documents(options.text) if options.text else documentation_text(say))
    tokenizer = train_vocabulary(corpus.train, RECIPE.vocab_size)
    rows = encode_rows(corpus.train, tokenizer, RECIPE.length)
    # Every other held-out document is for the choice of the learning rate alone.
    choice, judged = corpus.held_out[::2], corpus.held_out[1::2]
    counts = unigram_counts(rows, tokenizer.get_vocab_size())
    recipe = replace(RECIPE, steps=_steps(options, rows))
    held_out = encode_rows(judged, tokenizer, RECIPE.length)
    say(f"{int(rows.maskable.sum()):,} word pieces to train on; making the tasks")
    setting = Setting(
        config=_config(tokenizer),
        text=text_facts(tokenizer, counts),
        rows=rows,
        recipe=recipe,
        minutes=None if options.seconds is None else options.seconds / 60,
        plateau=unigram_entropy(held_out, counts),
        curve=_replaced_tokens(rows, held_out, counts),
        choice=_replaced_tokens(rows, encode_rows(choice, tokenizer, RECIPE.length), counts),
        tasks=tasks(Corpus(corpus.train, judged, corpus.overlap), tokenizer, RECIPE.length, 0, say),
    )
    facts = {
        "documents": len(corpus.train),
        "held_out_documents": len(judged),
        "choice_documents": len(choice),
        "word_pieces": int(rows.maskable.sum()),
        "vocab_size": tokenizer.get_vocab_size(),
        "length": RECIPE.length,
        "batch_size": RECIPE.batch_size,
        "seconds": options.seconds,
        "steps": recipe.steps,
        "recipe": recipe.to_dict(),
        "bfloat16": has_native_bfloat16(torch.device("cpu")),
        "torch": torch.__version__,
    }
    return setting, facts


def _steps(options: Options, rows: Rows) -> int:
    tokens_of_a_step = RECIPE.batch_size * float(rows.attention_mask.sum()) / len(rows.input_ids)
    return max(1, round(options.tokens / tokens_of_a_step))


def _config(tokenizer: Tokenizer) -> ElectraConfig:
    """The pair's encoder, and for those that need one a generator of half its width with the same embeddings."""
    encoder = pair_encoder(tokenizer.get_vocab_size())
    generator = replace(
        encoder,
        hidden_size=encoder.hidden_size // 2,
        num_attention_heads=encoder.num_attention_heads // 2,
        intermediate_size=encoder.intermediate_size // 2,
    )
    return ElectraConfig(encoder, generator, special_ids(tokenizer).mask)


def _replaced_tokens(rows: Rows, held_out: Rows, counts: Tensor) -> Task:
    """Which tokens were replaced by draws from the word frequencies: what the curves show."""
    fitted = _corrupted(spread(rows, FITTED_ROWS), counts)
    judged = _corrupted(spread(held_out, JUDGED_ROWS), counts)
    baselines = {"rarity of the word": area(judged, lambda input_ids, mask: rarity(input_ids, counts))}
    return Task("replaced_tokens", "token", "AUC", baselines, fitted, judged, partial(area, judged))


def _corrupted(rows: Rows, counts: Tensor) -> Examples:
    with torch.random.fork_rng():
        torch.manual_seed(EVALUATION_SEED)
        replaced = corrupt(rows.input_ids, rows.maskable, Unigram(counts))
    return Examples(replaced.input_ids, rows.attention_mask, rows.maskable, replaced.is_replaced)


def names(given: str) -> list[str]:
    """The objectives that a list with commas names, each once.

    Raises:
        UserError: one that there is not.
    """
    found = list(dict.fromkeys(given.split(",")))
    for name in found:
        if name not in OBJECTIVES:
            raise UserError(f"--objectives: {name!r} is none, should be among {', '.join(OBJECTIVES)}")
    return found
