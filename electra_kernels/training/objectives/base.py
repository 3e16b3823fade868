"""The interface of an objective: it makes a batch, computes a loss and names its metrics."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.facts import TextFacts
from electra_kernels.data.rows import Rows
from electra_kernels.models import ElectraConfig, Encoder
from electra_kernels.models.encoder import Layer


class Objective(nn.Module):
    """A model together with the question that it is trained on.

    The rows of a step may be cut over ranks and micro-batches in any way. Each part goes through `batch` and `forward`
    by itself; losses, gradients and metrics of the parts add up to those of the whole. For that, every random number of
    `batch` follows from the seed and the number of its row, and losses divide by counts of the whole batch.

    Args:
        config: sizes and options of the models. The trained encoder has the sizes of ``config.discriminator``.
        text: facts about the training text.

    Attributes:
        name: the value of ``--objective``, also used in tables.
        per: "token" or "row": the unit that gets a label.
        labels: how many labels a row has, in words.
        detects, cannot_detect: what an encoder trained this way can and cannot learn to see, in words.
        metrics: names of the metrics that `forward` returns beside the loss.
        packs: whether a row may hold several pieces, told apart by ``segments``.
        shares_vocabulary: whether ranks can share the output layer of its generator (`Execution.vocab_parallel`).
        masks: whether `batch` masks tokens, as ``whole_word_masking`` and ``max_ngram`` of the configuration say.
        model: the module that holds the encoder and its head.
    """

    name: str
    per: str
    labels: str
    detects: str
    cannot_detect: str
    metrics: tuple[str, ...] = ()
    packs: bool = True
    masks: bool = False
    shares_vocabulary: bool = False
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

    def layers(self) -> list[nn.Module]:
        """The Transformer layers, which the trainer compiles, shards and, in part, trains with Muon."""
        return [part for part in self.modules() if isinstance(part, Layer)]

    def checkpoint_layers(self) -> None:
        """Compute the layers again in the backward pass instead of keeping their values."""
        for part in self.modules():
            if isinstance(part, Encoder):
                part.checkpoint_layers = True

    def batch(self, tokens: TokenBatch, seed: int) -> Any:
        """The input of `forward`: named tuples of tensors, on the device of ``tokens``.

        Args:
            tokens: the rows. Their ``numbers`` and ``seed`` decide every random choice.
            seed: of the run.

        Raises:
            ValueError: the rows are packed, which `packs` excludes.
        """
        raise NotImplementedError

    def counts(self, batch: Any) -> Tensor:
        """What this batch adds to the denominators of the losses: int64 [C], on the device, not synchronised."""
        raise NotImplementedError

    def forward(
        self, batch: Any, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The share of this batch in the loss of the whole batch, and its metrics.

        Args:
            batch: from `batch`.
            progress: the finished share of the training, in [0, 1].
            counts: int64 [C], the sum of `counts` over all parts of the whole batch; by default those of this part.

        Returns:
            The loss [], and for each metric a `ratio`, whose sums over the parts `means` turns into numbers.
        """
        raise NotImplementedError

    def denominators(self, batch: Any, counts: Tensor | None) -> tuple[Tensor, ...]:
        """The counts that the losses divide by, each int64 [] and at least 1: without a label a loss is 0 / 1."""
        counts = self.counts(batch) if counts is None else counts
        return counts.clamp(min=1).unbind()

    def require_single_pieces(self, tokens: TokenBatch) -> None:
        """Raise ValueError if the rows are packed."""
        if tokens.segments is not None:
            raise ValueError(
                f"tokens.segments is given, should be None: {self.name} needs rows of one piece each"
            )


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """A metric as its numerator and denominator, float64 [2], so that it adds up over micro-batches and ranks."""
    return torch.stack([numerator.detach().double(), denominator.double()])


def means(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Numerator / denominator of each summed metric, nan where the denominator is 0. Waits for the device once."""
    if not sums:
        return {}
    numerators, denominators = torch.stack(list(sums.values())).cpu().unbind(-1)
    return dict(zip(sums, (numerators / denominators).tolist()))


def token_batch(rows: Rows, index: Tensor, device: torch.device) -> TokenBatch:
    """The rows ``index`` [B] on ``device``, each numbered by its index."""
    return rows.batch(index, index).to(device)
