"""The batch of the objectives that mask: masks and all random numbers are there before the first model runs."""

from typing import NamedTuple, Protocol

from torch import Tensor

from electra_kernels import MaskedTokens
from electra_kernels.data.batch import TokenBatch
from electra_kernels.ops.masking import default_slots
from electra_kernels.training.objectives.base import ratio
from electra_kernels.training.objectives.draws import row_draws


class MaskedBatch(NamedTuple):
    """Rows, their masks, and the numbers that draw the replacements.

    Masks are made before the forward pass, because the loss divides by the number of masked tokens in the whole batch,
    to which other micro-batches and ranks contribute.

    Attributes:
        tokens: the rows as they were.
        masked: ``input_ids`` [B, T] with masks, ``positions`` and ``targets`` [B, K].
        sampling_uniforms: float64 [B, K] in [0, 1). A policy that casts floating-point inputs must leave them alone.
        unigram_rows: [B] bool, the rows whose replacements are drawn by frequency instead of by the generator; None: no
            row.
    """

    tokens: TokenBatch
    masked: MaskedTokens
    sampling_uniforms: Tensor
    unigram_rows: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """How many tokens are to be predicted, int64 []."""
        return (self.masked.targets >= 0).sum()


class Mask(Protocol):
    """`electra_kernels.models.Proposer.mask`, or another function of the same signature."""

    def __call__(self, input_ids: Tensor, maskable: Tensor, *, uniforms: Tensor) -> MaskedTokens: ...


def masked_batch(mask: Mask, tokens: TokenBatch, probability: float, seed: int) -> MaskedBatch:
    """Mask ``tokens`` by ``mask``, which picks the share ``probability``, with the numbers of each row."""
    slots = default_slots(tokens.input_ids.shape[1], probability)
    masked = mask(
        tokens.input_ids, tokens.maskable, uniforms=row_draws(tokens.numbers, "masking", seed, slots, 2)
    )
    return MaskedBatch(tokens, masked, row_draws(tokens.numbers, "sampling", seed, slots))


def prediction_metrics(
    loss: Tensor, is_top1: Tensor, batch: MaskedBatch, normalizer: Tensor, names: tuple[str, str]
) -> dict[str, Tensor]:
    """Mean loss and accuracy of a prediction of the masked tokens, under ``names``.

    ``loss`` [] is the sum of the losses divided by ``normalizer`` []; ``is_top1`` [B, K] is false in unused slots.
    """
    return {
        names[0]: ratio(loss.detach() * normalizer, batch.targets),
        names[1]: ratio(is_top1.sum(), batch.targets),
    }
