"""A generator without parameters: it draws every replacement from one distribution over the vocabulary."""

import torch
from torch import Tensor, nn

# The CDF is stored in units of 2**-53, the resolution of the uniforms. Integers of this size are exact, and unlike a
# float64 buffer they survive model.to(torch.bfloat16).
_ONE = 2**53


class Unigram(nn.Module):
    """Draws tokens by their frequency, regardless of their context.

    Args:
        counts: [V] counts or probabilities, not negative, with a positive sum. Equal counts give the uniform
            generator. A token of count 0 is never drawn: give special tokens that count.

    Raises:
        ValueError: counts of another shape or range.
    """

    cumulative: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        if counts.dim() != 1 or counts.numel() == 0:
            raise ValueError(f"unigram has shape {list(counts.shape)}, should be [V]")
        weights = counts.detach().double()
        if counts.device.type != "meta" and not bool((weights >= 0).all() & (0 < weights.sum() < torch.inf)):
            raise ValueError(
                "unigram has a negative, infinite or NaN entry or no positive one, should be counts"
            )
        shares = weights.cumsum(0)
        self.register_buffer("cumulative", (shares / shares[-1] * _ONE).round().long())

    def shares(self) -> Tensor:
        """The probability of each token, float64 [V]."""
        return self.cumulative.diff(prepend=self.cumulative.new_zeros(1)).double() / _ONE

    def forward(self, targets: Tensor, *, uniforms: Tensor, ban_original: bool = False) -> Tensor:
        """Draw one token per slot by inverting the CDF.

        Args:
            targets: [...] int64, the original tokens; negative where the slot is unused.
            uniforms: [...] float64 in [0, 1).
            ban_original: never draw the slot's target.

        Returns:
            [...] int64; -1 where the slot is unused or nothing is left to draw.
        """
        used = targets >= 0
        if not ban_original:
            tokens = torch.searchsorted(self.cumulative, (uniforms * _ONE).long(), right=True)
            return tokens.where(used, -1)
        # Draw a point in the CDF without the original's interval [below, above), then move it past that interval.
        original = targets.clamp(min=0)
        above = self.cumulative[original]
        below = self.cumulative[(original - 1).clamp(min=0)].where(original > 0, 0)
        left = _ONE - (above - below)
        point = torch.minimum((uniforms * left).long(), left - 1)
        point = point + (above - below).where(point >= below, 0)
        tokens = torch.searchsorted(self.cumulative, point, right=True)
        return tokens.where(used & (left > 0), -1)
