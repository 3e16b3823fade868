"""The ops as torch modules; they add nothing but parameters."""

import torch
from torch import Tensor, nn

from electra_kernels.ops import (
    SampledLoss,
    TokenLoss,
    linear_cross_entropy_sample,
    linear_masked_bce,
    masked_bce_with_logits,
)


def _initial(*shape: int) -> Tensor:
    """Normal of standard deviation 0.02, cut at two of them (google-research/electra, create_initializer)."""
    return nn.init.trunc_normal_(torch.empty(shape), std=0.02, a=-0.04, b=0.04)


class MaskedBCEWithLogitsLoss(nn.Module):
    """`electra_kernels.masked_bce_with_logits` with its options kept; ``forward(logits, labels, mask=None)``."""

    def __init__(
        self,
        *,
        pos_weight: float | Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.label_smoothing, self.reduction = label_smoothing, reduction
        self.pos_weight: float | Tensor | None
        if isinstance(pos_weight, Tensor):
            self.register_buffer("pos_weight", pos_weight)
        else:
            self.pos_weight = pos_weight

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        *,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return masked_bce_with_logits(
            logits,
            labels,
            mask,
            pos_weight=self.pos_weight,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            normalizer=normalizer,
        )


class GeneratorHead(nn.Module):
    """The projection to the vocabulary, with the loss and the sample: `linear_cross_entropy_sample`.

    Args:
        embedding_size: E, the width of ``hidden``.
        vocab_size: V.
        weight: [V, E], the token embedding to tie to; by default a parameter of its own.
    """

    def __init__(self, embedding_size: int, vocab_size: int, *, weight: nn.Parameter | None = None) -> None:
        super().__init__()
        shape = (vocab_size, embedding_size)
        if weight is None:
            weight = nn.Parameter(_initial(*shape))
        if weight.shape != shape:
            raise ValueError(f"weight has shape {list(weight.shape)}, should be [V, E] = {list(shape)}")
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        reduction: str = "mean",
        normalizer: float | Tensor | None = None,
        temperature: float = 1.0,
        ban_original: bool = False,
        uniforms: Tensor | None = None,
    ) -> SampledLoss:
        """hidden [..., E], targets [...] (-100: ignored) → `SampledLoss`."""
        return linear_cross_entropy_sample(
            hidden,
            self.weight,
            self.bias,
            targets,
            reduction=reduction,
            normalizer=normalizer,
            temperature=temperature,
            ban_original=ban_original,
            uniforms=uniforms,
        )


class DiscriminatorHead(nn.Module):
    """The last Linear(H → 1) with its loss: `linear_masked_bce`."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_initial(1, hidden_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor,
        mask: Tensor | None = None,
        *,
        pos_weight: float | Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        normalizer: float | Tensor | None = None,
    ) -> TokenLoss:
        """hidden [..., H], labels [...], mask that broadcasts to [...] → `TokenLoss`."""
        return linear_masked_bce(
            hidden,
            self.weight,
            self.bias,
            labels,
            mask,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            reduction=reduction,
            normalizer=normalizer,
        )
