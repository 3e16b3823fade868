"""Text with each token coloured by the probability that it was replaced, for the terminal and for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.text import Text
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.evaluation.word_scores import ScoredWord
from electra_kernels.models import Discriminator

_RED, _WHITE = (214, 72, 40), (255, 255, 255)
_CONTINUATION = "##"


@dataclass(frozen=True)
class ScoredToken:
    """A word piece and the probability that it was replaced.

    Attributes:
        piece: as in the vocabulary, ``##ing`` where it continues a word.
        probability: in [0, 1].
        original: the piece that it replaced; None where it was not replaced, or where that is not known.
    """

    piece: str
    probability: float
    original: str | None = None

    @property
    def text(self) -> str:
        return self.piece.removeprefix(_CONTINUATION)

    @property
    def original_text(self) -> str | None:
        return None if self.original is None else self.original.removeprefix(_CONTINUATION)

    @property
    def starts_word(self) -> bool:
        return not self.piece.startswith(_CONTINUATION)

    @property
    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of the background."""
        return background(self.probability)


def score_rows(
    discriminator: Discriminator,
    tokenizer: Tokenizer,
    input_ids: Tensor,
    attention_mask: Tensor,
    original_ids: Tensor | None = None,
) -> list[list[ScoredToken]]:
    """The tokens of each row between [CLS] and [SEP], with their probabilities.

    Args:
        discriminator: in evaluation mode.
        tokenizer: the tokenizer that made the ids.
        input_ids: int64 [B, T].
        attention_mask: bool [B, T].
        original_ids: int64 [B, T], the ids before the replacement; None: nothing is marked as replaced.
    """
    with torch.no_grad():
        probabilities = discriminator.logits(input_ids, attention_mask).sigmoid()
    originals = input_ids if original_ids is None else original_ids
    lengths = attention_mask.sum(-1).tolist()
    return [
        [
            ScoredToken(
                str(tokenizer.id_to_token(token)),
                probability,
                None if token == original else tokenizer.id_to_token(original),
            )
            for token, probability, original in list(zip(*row))[1 : length - 1]
        ]
        for row, length in zip(
            zip(input_ids.tolist(), probabilities.tolist(), originals.tolist()), lengths, strict=True
        )
    ]


def background(probability: float) -> tuple[int, int, int]:
    """Red, green and blue of the background: white at probability 0, red at 1."""
    red, green, blue = (
        round(white + (full - white) * probability) for white, full in zip(_WHITE, _RED, strict=True)
    )
    return red, green, blue


def to_terminal(text: str, words: Sequence[ScoredWord]) -> Text:
    """The text as written, for rich: each word on its colour, in bold from a probability of 0.5."""
    coloured = Text(text)
    for word in words:
        red, green, blue = background(word.probability)
        bold = "bold " if word.probability >= 0.5 else ""
        coloured.stylize(f"{bold}black on #{red:02x}{green:02x}{blue:02x}", word.start, word.end)
    return coloured
