"""``electra-kernels predict``: label new text with a fine-tuned model."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from electra_kernels.commands.detect import read_lines
from electra_kernels.commands.options import Commands
from electra_kernels.errors import UserError

if TYPE_CHECKING:
    from electra_kernels.finetuning.labelled import Example
    from electra_kernels.finetuning.labeller import Labeller


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "predict",
        help="label new text with a model of finetune",
        description="Tag each word, or label each text, with a model that electra-kernels finetune has written.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "text", nargs="*", help="one or more texts, or - for the lines of standard input (default)"
    )
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="--output of finetune, or the folder model in it",
    )
    parser.add_argument(
        "--json", action="store_true", help="print words, offsets, tags and probabilities as JSON"
    )
    parser.add_argument(
        "--words",
        choices=("blanks", "punctuation"),
        help="words end at blanks, or at punctuation marks too (default: as in the training file)",
    )


def run(arguments: argparse.Namespace) -> int:
    from electra_kernels.finetuning.labeller import load_labeller
    from electra_kernels.finetuning.quiet import quiet_libraries

    texts = read_lines(sys.stdin) if arguments.text in ([], ["-"]) else arguments.text
    with quiet_libraries():
        labeller = load_labeller(arguments.model)
        labelled = predict(labeller, texts, words=arguments.words)
    if arguments.json:
        print(json.dumps(labelled))
    else:
        _print_readable(labeller, texts, labelled)
    return 0


def predict(labeller: "Labeller", texts: Sequence[str], *, words: str | None = None) -> list[Any]:
    """Label texts.

    Args:
        labeller: the model, opened by `load_labeller`.
        texts: the texts.
        words: where words end, "blanks" or "punctuation"; None is as in the training file.

    Returns:
        For each text, if words have tags: a list of dicts with word, start, end (offsets of characters), tag and
        probability. Otherwise a dict with label and probability. With two tags the probability is that of the positive
        tag; otherwise that of the tag or label itself.

    Raises:
        UserError: a text has no words or is not Unicode.
    """
    apart = labeller.task.punctuation_apart if words is None else words == "punctuation"
    examples = [_example(text, number, apart) for number, text in enumerate(texts, start=1)]
    if not examples:
        return []
    probabilities = labeller.probabilities(examples)
    if labeller.task.task == "sequence":
        names = labeller.labels(probabilities)
        return [
            {"label": name, "probability": float(found.max())} for name, found in zip(names, probabilities)
        ]
    return [
        _words(example, tags, found.max(axis=1))
        for example, tags, found in zip(examples, labeller.tags(probabilities), probabilities)
    ]


def _example(text: str, number: int, punctuation_apart: bool) -> "Example":
    from electra_kernels.finetuning.labelled import Example, split_text

    # Python decodes bytes of an argument that are not UTF-8 to lone surrogates.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"text {number} is not UTF-8 text")
    if punctuation_apart:
        example = split_text(text)
    else:
        found = list(re.finditer(r"\S+", text))
        example = Example(
            tuple(word.group() for word in found), tuple(word.span() for word in found), text, 1
        )
    if not example.words:
        raise UserError(f"text {number} has no words")
    return example


def _words(example: "Example", tags: Sequence[str], probabilities: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {"word": word, "start": start, "end": end, "tag": tag, "probability": float(probability)}
        for word, (start, end), tag, probability in zip(example.words, example.spaces, tags, probabilities)
    ]


def _print_readable(labeller: "Labeller", texts: Sequence[str], results: Sequence[Any]) -> None:
    """The text, and below it what was found: a line per entity, per word of the positive tag, or per word."""
    for text, result in zip(texts, results):
        if labeller.task.task == "sequence":
            print(f"{result['label']}\t{result['probability']:.3f}\t{text}")
            continue
        print(text)
        for start, end, tag, probability in _found(labeller, result):
            print(f"  {tag}\t{probability:.3f}\t{start}-{end}\t{text[start:end]}")


def _found(labeller: "Labeller", words: Sequence[dict[str, Any]]) -> list[tuple[int, int, str, float]]:
    """First and last character, tag and probability; that of an entity is the lowest of its words."""
    from electra_kernels.finetuning.scores import entities

    task = labeller.task
    if task.scheme == "BIO":
        spans = [(found.start, found.end, found.tag) for found in entities([[word["tag"] for word in words]])]
    else:
        spans = [(index, index + 1, word["tag"]) for index, word in enumerate(words)]
        if task.is_binary:
            spans = [span for span in spans if span[2] == task.labels[1]]
    return [
        (
            words[start]["start"],
            words[end - 1]["end"],
            tag,
            min(word["probability"] for word in words[start:end]),
        )
        for start, end, tag in spans
    ]
