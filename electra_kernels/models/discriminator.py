"""ELECTRA's discriminator: it classifies every token as original or replaced."""

from torch import Tensor, nn
from torch.nn import functional as F

from electra_kernels.models.encoder import Encoder
from electra_kernels.models.layers import linear
from electra_kernels.models.modern_layers import modern_transform
from electra_kernels.nn import DiscriminatorHead
from electra_kernels.ops import ReplacedTokens, TokenLoss


class Discriminator(nn.Module):
    """A binary classifier of every token, original or replaced: encoder, transform, head."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        config = encoder.config
        size, std = config.hidden_size, config.initializer_range
        self.encoder = encoder
        if config.family == "modern":
            self.transform = modern_transform(config)
        else:
            self.transform = nn.Sequential(linear(size, size, std), nn.GELU())
        self.head = DiscriminatorHead(size)

    def forward(
        self,
        replaced: ReplacedTokens,
        attention_mask: Tensor | None = None,
        *,
        segments: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> TokenLoss:
        """Detect the replaced tokens.

        Args:
            replaced: the batch as `electra_kernels.replace_tokens` returns it.
            attention_mask: [B, T], nonzero at real tokens, which the loss covers; None for all.
            segments: as in `Encoder`.
            normalizer: denominator of the loss, as in `electra_kernels.linear_masked_bce`.

        Returns:
            loss [] float32, logits [B, T] float32 and counts [4] int64 (tp, fp, fn, tn).

        Raises:
            TypeError, ValueError: as the op and `Encoder`.
        """
        hidden = self.transform(self.encoder(replaced.input_ids, attention_mask, segments=segments))
        return self.head(hidden, replaced.is_replaced, attention_mask, normalizer=normalizer)

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """input_ids [B, T] → logits [B, T] float32, above 0 where a token looks replaced."""
        hidden = self.transform(self.encoder(input_ids, attention_mask, segments=segments))
        return F.linear(hidden, self.head.weight, self.head.bias).squeeze(-1).float()
