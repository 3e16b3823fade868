"""``electra-kernels detect``: the probability that a word piece was replaced, for every piece of a text."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from electra_kernels.commands.options import Commands, add_model
from electra_kernels.errors import UserError

if TYPE_CHECKING:
    from electra_kernels.evaluation.colouring import ScoredToken


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "detect",
        help="colour the words of a text by the probability that they do not belong there",
        description="The redder the background, the more probable it is, according to the discriminator, that the "
        "token was replaced.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("text", nargs="+", help="one or more texts, or - for the lines of standard input")
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print tokens and probabilities as JSON")


def run(arguments: argparse.Namespace) -> int:
    texts = read_lines(sys.stdin) if arguments.text == ["-"] else arguments.text
    scored = detect(arguments.model, texts)
    if arguments.json:
        print(
            json.dumps([[{"piece": t.piece, "probability": t.probability} for t in text] for text in scored])
        )
    else:
        _print_coloured(scored)
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


def detect(model: Path, texts: Sequence[str]) -> list[list["ScoredToken"]]:
    """Score every word piece of each text.

    A text that is longer than the rows of the training is cut into several rows.

    Args:
        model: folder of a checkpoint.
        texts: the texts.

    Raises:
        UserError: there is no checkpoint in ``model``, or a text has no words or is not Unicode.
    """
    from electra_kernels.data.rows import encode_rows
    from electra_kernels.data.text import Document
    from electra_kernels.evaluation.colouring import score_rows
    from electra_kernels.evaluation.held_out import slices
    from electra_kernels.training.model_folder import load_checkpoint

    checkpoint = load_checkpoint(model)
    results = []
    for number, text in enumerate(texts, start=1):
        # Python decodes bytes of an argument that are not UTF-8 to lone surrogates.
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"text {number} is not UTF-8 text")
        document = Document("text", tuple(line for line in text.splitlines() if line.strip()))
        rows = encode_rows([document], checkpoint.tokenizer, checkpoint.recipe.length, shortest=1)
        if not len(rows.input_ids):
            raise UserError(f"text {number} has no words")
        tokens: list[ScoredToken] = []
        for part in slices(rows):
            ids, mask = rows.input_ids[part], rows.attention_mask[part]
            scored = score_rows(checkpoint.model.discriminator, checkpoint.tokenizer, ids, mask)
            tokens += [token for row in scored for token in row]
        results.append(tokens)
    return results


def _print_coloured(scored: Sequence[Sequence["ScoredToken"]]) -> None:
    from rich.console import Console

    from electra_kernels.commands.progress import print_plainly
    from electra_kernels.evaluation.colouring import to_terminal

    console = Console()
    for tokens in scored:
        console.print(to_terminal(tokens))
        ranked = sorted(tokens, key=lambda token: -token.probability)[:5]
        words = ", ".join(f"{token.piece} {token.probability:.0%}" for token in ranked)
        print_plainly(console, f"most suspicious: {words}", style="dim")
