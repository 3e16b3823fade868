"""``electra-kernels detect``: the probability that a word was replaced, for every word of a text."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from electra_kernels.commands.options import Commands, add_model
from electra_kernels.errors import UserError

if TYPE_CHECKING:
    from electra_kernels.evaluation.word_scores import ScoredWord


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "detect",
        help="colour the words of a text by the probability that they do not belong there",
        description="The redder the background, the more probable it is, according to the discriminator, that the "
        "word was replaced.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("text", nargs="+", help="one or more texts, or - for the lines of standard input")
    add_model(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON: for each text a list of its words, with start and end in the text, and probability",
    )


def run(arguments: argparse.Namespace) -> int:
    texts = read_lines(sys.stdin) if arguments.text == ["-"] else arguments.text
    scored = detect(arguments.model, texts)
    if arguments.json:
        print(json.dumps([[word._asdict() for word in words] for words in scored]))
    else:
        _print_coloured(texts, scored)
    return 0


def read_lines(stream: TextIO | None) -> list[str]:
    """The lines of a stream that are not blank, decoded as UTF-8 in every locale.

    Raises:
        UserError: the stream is closed, or is not UTF-8 text.
    """
    if stream is None:
        raise UserError("standard input is closed, should hold the texts")
    try:
        text = stream.buffer.read().decode("utf-8-sig")  # without a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 text ({error.reason} at byte {error.start})") from error
    return [line for line in text.splitlines() if line.strip()]


def detect(model: Path, texts: Sequence[str]) -> list[list["ScoredWord"]]:
    """Score every word of each text.

    A text that is longer than the rows of the training is cut into several rows.

    Args:
        model: folder of a checkpoint, or of one discriminator as transformers stores it.
        texts: the texts.

    Raises:
        UserError: there is no checkpoint in ``model``, or a text has no words or is not Unicode.
    """
    from electra_kernels.evaluation.word_scores import score_words
    from electra_kernels.training.model_folder import load_detector

    discriminator, tokenizer, length = load_detector(model)
    results = []
    for number, text in enumerate(texts, start=1):
        # Python decodes bytes of an argument that are not UTF-8 to lone surrogates.
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"text {number} is not UTF-8 text")
        words = score_words(discriminator, tokenizer, text, length)
        if not words:
            raise UserError(f"text {number} has no words")
        results.append(words)
    return results


def _print_coloured(texts: Sequence[str], scored: Sequence[Sequence["ScoredWord"]]) -> None:
    from rich.console import Console

    from electra_kernels.commands.progress import print_plainly
    from electra_kernels.evaluation.colouring import to_terminal

    console = Console()
    for text, words in zip(texts, scored, strict=True):
        console.print(to_terminal(text, words))
        ranked = sorted(words, key=lambda word: -word.probability)[:5]
        listed = ", ".join(f"{word.word} {word.probability:.0%}" for word in ranked)
        print_plainly(console, f"most suspicious: {listed}", style="dim")
