"""Fine-tunes the encoders of a comparison with ``electra-kernels finetune``, and puts the objectives side by side.

    electra-kernels compare --output out --tokens 1000000,10000000
    python -m benchmarks.fine_tuned out

The encoders are those of the largest finished budget and the untrained ones. Each is fine-tuned with the defaults of
the command on the labels of `electra_kernels.examples.labelled_text` (real-word errors, capitals, commas) and on the
sentiment of rated sentences, with the seed of its pre-training. The figures are those of the test files, whose text no
encoder has seen: the AUC of labels per word, the accuracy of labels per text. out/fine_tuned keeps the labels and one
record for each encoder, which is not made again. The tables are printed.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_model
from tokenizers import Tokenizer

from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.held_out import halves
from electra_kernels.data.text import Corpus, read_documents, split_held_out
from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.evaluation.comparison.page import Section, differences, probes
from electra_kernels.evaluation.comparison.processes import in_processes
from electra_kernels.evaluation.comparison.runs import weights_path
from electra_kernels.evaluation.comparison.scores import FINE_TUNED, budgets_of, runs_of
from electra_kernels.evaluation.comparison.setting import UNTRAINED, Run, Setting
from electra_kernels.evaluation.probing.sentiment import fetch_rated_sentences, split_clear
from electra_kernels.examples.labelled_text import labels_of, write_labels
from electra_kernels.files import write_whole
from electra_kernels.finetuning.finetune import finetune
from electra_kernels.finetuning.quiet import quiet_libraries
from electra_kernels.finetuning.settings import Options
from electra_kernels.models import Encoder, save_transformers

SENTIMENT = "sentiment"
FIGURES = {"tokens": "auc", "sequence": "accuracy"}  # by the kind of task
Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fine_tuned", description=__doc__.splitlines()[0]
    )
    parser.add_argument("comparison", type=Path, help="OUTPUT of electra-kernels compare")
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="the text of the comparison")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="runs at once, each on one thread"
    )
    options = parser.parse_args(argv)
    folder, record = options.comparison, json.loads((options.comparison / "compare.json").read_text())
    place = folder / "fine_tuned"
    if not (place / "labels" / SENTIMENT / "test.jsonl").exists():  # the last file that is written
        _write_labels(place, options.text, record["recipe"]["vocab_size"])
    runs = _runs(record)
    files = {run: place / f"{run.name}.json" for run in runs}
    missing = [run for run, file in files.items() if not file.exists()]
    with closing(
        in_processes(fine_tune, folder / "runs" / "setting.pickle", missing, options.processes)
    ) as made:
        for figures in made:
            run = Run(**{name: figures[name] for name in Run.__dataclass_fields__})
            write_whole(files[run], json.dumps(figures) + "\n")
            print(run.name, figures["probes"], flush=True)
    judged = record | {
        "runs": [json.loads(file.read_text()) for file in files.values()],
        "baselines": {name: {"per": "word", "metric": "AUC"} for name in _tasks(place)},
    }
    judged["baselines"][SENTIMENT] = {"per": "text", "metric": "accuracy"}
    for section in (probes(judged, FINE_TUNED), differences(judged, FINE_TUNED)):
        print("\n".join(_markdown(section)))


def fine_tune(setting: Setting, run: Run, runs: Path) -> Record:
    """The figure of one encoder at each task, after a fine-tuning on one thread; its folders are removed."""
    place = runs.parent / "fine_tuned"
    encoder = Encoder(setting.config.discriminator)
    load_model(encoder, str(weights_path(runs, run)))
    model, output = place / f"{run.name}-encoder", place / f"{run.name}-output"
    save_transformers(encoder, model, tokenizer=Tokenizer.from_file(str(place / "tokenizer.json")))
    figures = {}
    for task in _tasks(place):
        kind = "sequence" if task == SENTIMENT else "tokens"
        suffix = "jsonl" if task == SENTIMENT else "tsv"
        train, test = (place / "labels" / task / f"{part}.{suffix}" for part in ("train", "test"))
        options = Options(
            model,
            train,
            output,
            test=test,
            task=kind,
            length=setting.recipe.length,
            # Random weights have nothing to keep in the lower layers, as in a run of finetune from scratch.
            layer_decay=1.0 if run.objective == UNTRAINED else None,
            seed=run.seed,
            replace=True,
        )
        with quiet_libraries():
            (scored,) = finetune(options).seeds
        assert scored.test is not None
        figures[task] = {FINE_TUNED: scored.test.figures[FIGURES[kind]]}
    for folder in (model, output):
        shutil.rmtree(folder)
    return asdict(run) | {"probes": figures}


def _write_labels(place: Path, text: Sequence[Path], vocab_size: int) -> None:
    """The labelled files, and the tokenizer of the comparison: its vocabulary follows from the text."""
    corpus = split_held_out(read_documents(text) if text else documentation_text(print))
    place.mkdir(exist_ok=True)
    train_vocabulary(corpus.train, vocab_size).save(str(place / "tokenizer.json"))
    _, judged = halves(corpus.held_out)
    write_labels(labels_of(Corpus(corpus.train, judged, corpus.overlap)), place / "labels")
    folder = place / "labels" / SENTIMENT
    folder.mkdir(exist_ok=True)
    for part, sentences in zip(("train", "test"), split_clear(fetch_rated_sentences())):
        lines = (
            json.dumps({"text": sentence.text, "label": "positive" if sentence.rating > 0 else "negative"})
            for sentence in sentences
        )
        write_whole(folder / f"{part}.jsonl", "\n".join(lines) + "\n")


def _tasks(place: Path) -> list[str]:
    return sorted(folder.name for folder in (place / "labels").iterdir())


def _runs(record: Record) -> list[Run]:
    """The runs to judge, one seed after the other, so that a stopped command has all objectives for some of them."""
    budget = budgets_of(record)[-1]
    runs = [
        Run(**{name: run[name] for name in Run.__dataclass_fields__})
        for name in (*record["objectives"], UNTRAINED)
        for run in runs_of(record, name, budget)
        if run["seed"] < record["budgets"][str(budget)]
    ]
    return sorted(runs, key=lambda run: run.seed)


def _markdown(section: Section) -> Iterator[str]:
    yield f"\n{section.title}\n"
    yield "| " + " | ".join(section.header) + " |"
    yield "|---" * len(section.header) + "|"
    for row in section.rows:
        yield "| " + " | ".join(row) + " |"


if __name__ == "__main__":
    main()
