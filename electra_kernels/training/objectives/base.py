"""The interface of an objective: it makes a batch, computes a loss and names its metrics."""

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
    """A model together with the question that it is trained on.

    Random numbers come from torch's global generator, which `electra_kernels.training.trainer.train` seeds.

    Args:
        config: sizes and options of the models. The trained encoder has the sizes of ``config.discriminator``.
        text: facts about the training text.

    Attributes:
        name: the value of ``--objective``, also used in tables.
        per: "token" or "row": the unit that gets a label.
        labels: how many labels a row has, in words.
        detects, cannot_detect: what an encoder trained this way can and cannot learn to see, in words.
        metrics: names of the metrics that `forward` returns beside the loss.
        model: the module that holds the encoder and its head.
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
        """The trained encoder. Copy weights into it, never replace it: other modules may share its embeddings."""
        encoder = self.model.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    def batch(self, tokens: TokenBatch) -> Any:
        """The input of `forward`, made from a batch of rows; by default the rows themselves."""
        return tokens

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [] and the metrics, 0-dim tensors. ``progress`` in [0, 1] is the finished share of the training."""
        raise NotImplementedError


def token_batch(rows: Rows, index: Tensor, device: torch.device) -> TokenBatch:
    """The rows with the numbers ``index`` [B], on ``device``."""
    parts = (rows.input_ids, rows.attention_mask, rows.maskable, rows.document)
    return TokenBatch(*(part[index].to(device, non_blocking=True) for part in parts))
