"""``electra-kernels detect``: the discriminator's probability for every word piece of a text."""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from electra_kernels.data.rows import encode_rows
from electra_kernels.data.text import Document
from electra_kernels.errors import UserError
from electra_kernels.evaluation.colouring import ScoredToken, score_rows
from electra_kernels.evaluation.held_out import slices
from electra_kernels.training.checkpoint import load_checkpoint


def read_lines(stream: TextIO | None) -> list[str]:
    """The lines of a stream that are not blank; they are UTF-8, whatever the locale says.

    Raises:
        UserError: the stream is closed, or is not UTF-8 text.
    """
    if stream is None:
        raise UserError("standard input is closed, should hold the texts")
    try:
        # A byte order mark is no part of the text.
        text = stream.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 text ({error.reason} at byte {error.start})") from error
    return [line for line in text.splitlines() if line.strip()]


def detect(directory: Path, texts: Sequence[str]) -> list[list[ScoredToken]]:
    """Score each text; one longer than the rows that the model was trained on is cut in rows.

    Raises:
        UserError: no checkpoint in ``directory``, or a text that has no words or is not Unicode.
    """
    checkpoint = load_checkpoint(directory)
    lines = []
    for number, text in enumerate(texts, start=1):
        if any("\ud800" <= character <= "\udfff" for character in text):  # Python's form of stray bytes
            raise UserError(f"text {number} is not UTF-8 text")
        document = Document("text", tuple(line for line in text.splitlines() if line.strip()))
        rows = encode_rows([document], checkpoint.tokenizer, checkpoint.recipe.length, shortest=1)
        if not len(rows.input_ids):
            raise UserError(f"text {number} has no words")
        line: list[ScoredToken] = []
        for part in slices(rows):
            ids, mask = rows.input_ids[part], rows.attention_mask[part]
            scored = score_rows(checkpoint.model.discriminator, checkpoint.tokenizer, ids, mask)
            line += [token for row in scored for token in row]
        lines.append(line)
    return lines
