"""Fine-tune a pre-trained encoder on labels per word that a text itself gives, and the same encoder from scratch.

- ``real_word_errors``: was this word put in another's place ("luck" for "look")? Wrong words of the training file are
  never wrong in the test file.
- ``capitals``: was this word capitalised, other than at the start of the sentence? The input is in lower case.
- ``commas``: did a comma follow? The input has none.

OUTPUT/labels has the files: a word and its tag on each line, and an empty line between sentences. The test sentences
come from the documents that ``electra-kernels prepare`` holds out of the same text, so an encoder that was pre-trained
on it has not seen them. Without --model only the files are written.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from electra_kernels.data.text import Corpus
from electra_kernels.evaluation.comparison.intervals import interval
from electra_kernels.evaluation.held_out import EVALUATION_SEED
from electra_kernels.evaluation.probing.real_word_errors import divided_errors, error_words
from electra_kernels.evaluation.probing.words import Word, pick_sentences
from electra_kernels.evaluation.probing.writing import hide_capitals, hide_commas
from electra_kernels.evaluation.real_word_errors import count_words
from electra_kernels.examples.common import add_text, read_corpus
from electra_kernels.files import write_whole
from electra_kernels.finetuning.finetune import finetune
from electra_kernels.finetuning.model import encoder_folder
from electra_kernels.finetuning.quiet import quiet_libraries
from electra_kernels.finetuning.settings import Options

FIGURES = ("auc", "average_precision", "f0.5")
TRAIN_SENTENCES, TEST_SENTENCES = 4_000, 1_500


class Labels(NamedTuple):
    """Labelled sentences, and the tags of their words: (no, yes)."""

    tags: tuple[str, str]
    train: list[list[Word]]
    test: list[list[Word]]


def labels_of(corpus: Corpus, seed: int = 0) -> Mapping[str, Labels]:
    """The three sets, by name. ``seed`` decides the training sentences; the test sentences are always the same.

    Raises:
        UserError: the list of confused words cannot be downloaded.
    """
    test = pick_sentences(corpus.held_out, TEST_SENTENCES, EVALUATION_SEED)
    train = pick_sentences(corpus.train, TRAIN_SENTENCES, seed, without=test)
    errors = divided_errors(corpus, count_words(corpus.train), seed)
    return {
        "real_word_errors": Labels(("right", "wrong"), *([*map(error_words, part)] for part in errors)),
        "capitals": Labels(("lower", "capital"), *([*map(hide_capitals, part)] for part in (train, test))),
        "commas": Labels(("none", "comma"), *([*map(hide_commas, part)] for part in (train, test))),
    }


def write_labels(labels: Mapping[str, Labels], folder: Path) -> None:
    """Write folder/NAME/train.tsv and folder/NAME/test.tsv."""
    for name, (tags, *parts) in labels.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for part, sentences in zip(("train", "test"), parts):
            text = "\n".join(_lines(sentence, tags) for sentence in sentences)
            write_whole(folder / name / f"{part}.tsv", text)


def _lines(sentence: Sequence[Word], tags: tuple[str, str]) -> str:
    return "".join(f"{word.text}\t{tags[word.asked and word.label]}\n" for word in sentence)


def without_weights(model: Path, folder: Path) -> Path:
    """A copy of a model's configuration and tokenizer, from which `finetune` starts with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy2(encoder_folder(model) / name, folder)
    return folder


def fine_tune(model: Path, labels: Path, output: Path, seeds: int) -> dict[str, list[float]]:
    """Each of `FIGURES` on the test sentences, for each seed."""
    options = Options(
        model, labels / "train.tsv", output, test=labels / "test.tsv", seeds=seeds, replace=True
    )
    with quiet_libraries():
        tests = [seed.test for seed in finetune(options).seeds]
    return {name: [test.figures[name] for test in tests if test is not None] for name in FIGURES}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_text(parser)
    parser.add_argument("--model", type=Path, help="OUTPUT/model of a run, or another folder of transformers")
    parser.add_argument("--output", type=Path, required=True, help="folder for the files and the models")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (default: %(default)s)")
    options = parser.parse_args(arguments)
    labels = labels_of(read_corpus(options.text))
    write_labels(labels, options.output / "labels")
    for name, (_, train, test) in labels.items():
        print(f"{name}: {len(train):,} training sentences, {len(test):,} test sentences")
    if options.model is None:
        return
    starts = {
        "pre-trained": options.model,
        "from scratch": without_weights(options.model, options.output / "config"),
    }
    for name in labels:
        scores = {}
        for start, model in starts.items():
            place = options.output / f"{name}-{start.replace(' ', '-')}"
            scores[start] = fine_tune(model, options.output / "labels" / name, place, options.seeds)
            row = ", ".join(f"{figure} {interval(values)}" for figure, values in scores[start].items())
            print(f"{name}, {start}: {row}", flush=True)
        pairs = {figure: zip(*(part[figure] for part in scores.values())) for figure in FIGURES}
        gains = {figure: [ours - theirs for ours, theirs in pair] for figure, pair in pairs.items()}
        row = ", ".join(f"{figure} {interval(values):+}" for figure, values in gains.items())
        print(f"{name}, difference by seed: {row}", flush=True)


if __name__ == "__main__":
    main()
