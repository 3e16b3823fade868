"""The shape of an objective: makes a batch, computes a loss, names its metrics."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from electra_kernels.data.rows import Rows
from electra_kernels.data.vocabulary import SpecialIds, special_ids
from electra_kernels.models import ElectraConfig, Encoder

_SENTENCE_ENDS = (".", "?", "!")
_CONTINUATION = "##"


@dataclass(frozen=True)
class TextFacts:
    """What an objective may know of the text that it is trained on.

    Attributes:
        counts: int64 [V], how often each token occurs in the training text, 0 for special tokens.
        special_ids: the ids of the tokens that are no text.
        sentence_ends: int64, the ids of the pieces that end a sentence.
        continuations: int64, the ids of the pieces that continue a word (``##ing``); none where every piece is a word.
    """

    counts: Tensor
    special_ids: SpecialIds
    sentence_ends: Tensor
    continuations: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


def text_facts(tokenizer: Tokenizer, counts: Tensor) -> TextFacts:
    """The facts of a WordPiece vocabulary and of the text that was counted with it: ``.``, ``?``, ``!`` end a sentence.

    Raises:
        UserError: the vocabulary lacks a special token.
    """
    vocabulary = tokenizer.get_vocab()
    ends = [vocabulary[piece] for piece in _SENTENCE_ENDS if piece in vocabulary]
    continuations = sorted(i for piece, i in vocabulary.items() if piece.startswith(_CONTINUATION))
    ids = [torch.tensor(part, dtype=torch.int64) for part in (ends, continuations)]
    return TextFacts(counts, special_ids(tokenizer), *ids)


class TokenBatch(NamedTuple):
    """``input_ids`` [B, T] int64, ``attention_mask`` and ``maskable`` [B, T] bool, ``document`` [B] int64."""

    input_ids: Tensor
    attention_mask: Tensor
    maskable: Tensor
    document: Tensor


class Objective(nn.Module):
    """A model together with what it is asked.

    Random numbers come from torch's global generator, which the run seeds.

    Args:
        config: of the models; the encoder that is trained is that of ``config.discriminator``.
        text: what the objective may know of the text.

    Attributes:
        name: of ``--objective`` and of tables.
        per: "token" or "row", what a label is given to.
        labels: how many labels a row has, in words.
        detects, cannot_detect: what an encoder trained so can and cannot learn to see, in words.
        metrics: names of what `forward` reports besides the loss.
        model: what holds the encoder and its head.
    """

    name: str
    per: str
    labels: str
    detects: str
    cannot_detect: str
    metrics: tuple[str, ...] = ()
    model: nn.Module

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__()
        self.config = config

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained; others may share its embeddings, so copy weights into it, never replace it."""
        encoder = self.model.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    def batch(self, tokens: TokenBatch) -> Any:
        """The batch as `forward` takes it, by default as it is."""
        return tokens

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [] and the metrics, 0-dim tensors; ``progress`` in [0, 1] says how much of the run is over."""
        raise NotImplementedError


def take(rows: Rows, index: Tensor, device: torch.device) -> TokenBatch:
    """The rows of ``index`` [B], on ``device``."""
    parts = (rows.input_ids, rows.attention_mask, rows.maskable, rows.document)
    return TokenBatch(*(part[index].to(device, non_blocking=True) for part in parts))
