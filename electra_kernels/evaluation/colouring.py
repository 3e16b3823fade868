"""Text with each token coloured by the probability that it was replaced, for the terminal and for the report."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.text import Text
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.models import Discriminator

_RED, _WHITE = (214, 72, 40), (255, 255, 255)


@dataclass(frozen=True)
class ScoredToken:
    """A word piece, the probability that it was replaced, and what stood there where it really was."""

    piece: str
    probability: float
    original: str | None = None

    @property
    def text(self) -> str:
        return self.piece.removeprefix("##")

    @property
    def starts_word(self) -> bool:
        return not self.piece.startswith("##")


def score_rows(
    discriminator: Discriminator,
    tokenizer: Tokenizer,
    input_ids: Tensor,
    attention_mask: Tensor,
    original_ids: Tensor | None = None,
) -> list[list[ScoredToken]]:
    """input_ids, attention_mask and the ids before the replacement, [B, T] → the tokens between [CLS] and [SEP]."""
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


def to_terminal(tokens: Sequence[ScoredToken]) -> Text:
    """The redder the background, the more probable that the token was replaced; the highest are bold."""
    text = Text()
    for token in tokens:
        if token.starts_word and len(text):
            text.append(" ")
        red, green, blue = _shade(token.probability)
        bold = "bold " if token.probability >= 0.5 else ""
        text.append(token.text, style=f"{bold}black on #{red:02x}{green:02x}{blue:02x}")
    return text


def to_html(tokens: Sequence[ScoredToken]) -> str:
    """As `to_terminal`; a token that was really replaced is underlined, with the original behind it."""
    parts: list[str] = []
    for token in tokens:
        red, green, blue = _shade(token.probability)
        style = f'style="background:rgb({red},{green},{blue})" title="{token.probability:.0%}"'
        span = f"<span {style}>{html.escape(token.text)}</span>"
        if token.original is not None:
            span = f"<u>{span}</u><s>{html.escape(token.original.removeprefix('##'))}</s>"
        parts.append((" " if token.starts_word and parts else "") + span)
    return "".join(parts)


def _shade(probability: float) -> tuple[int, int, int]:
    red, green, blue = (
        round(white + (full - white) * probability) for white, full in zip(_WHITE, _RED, strict=True)
    )
    return red, green, blue
