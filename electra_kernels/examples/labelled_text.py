"""Three sets of labels per word that a text itself gives, as files for ``electra-kernels finetune``.

- ``real_word_errors``: was this word put in another's place ("luck" for "look")? Wrong words of the training file are
  never wrong in the test file.
- ``capitals``: was this word capitalised? The input is in lower case.
- ``commas``: did a comma follow? The input has none.

A file has a word and its tag on each line, and an empty line between sentences. The tag ``_`` marks a word without a
label. Test sentences come from the documents that ``electra-kernels prepare`` holds out of the same text.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from electra_kernels.data.text import Corpus
from electra_kernels.evaluation.held_out import EVALUATION_SEED
from electra_kernels.evaluation.probing.real_word_errors import divided_errors, error_words
from electra_kernels.evaluation.probing.words import Word, pick_sentences
from electra_kernels.evaluation.probing.writing import hide_capitals, hide_commas
from electra_kernels.evaluation.real_word_errors import count_words
from electra_kernels.examples.common import add_text, read_corpus
from electra_kernels.files import write_whole

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
    return "".join(f"{word.text}\t{tags[word.label] if word.asked else '_'}\n" for word in sentence)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_text(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder for the files")
    options = parser.parse_args(arguments)
    labels = labels_of(read_corpus(options.text))
    write_labels(labels, options.output)
    for name, (_, train, test) in labels.items():
        print(f"{options.output / name}: {len(train):,} training sentences, {len(test):,} test sentences")


if __name__ == "__main__":
    main()
