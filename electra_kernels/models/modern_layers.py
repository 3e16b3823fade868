"""Embeddings and layer of ModernBERT (Warner et al. 2024, arXiv 2412.13663): rotary positions, pre-norm, GeGLU."""

from torch import Tensor, nn
from torch.nn import functional as F

from electra_kernels.models.attention import Layout
from electra_kernels.models.config import EncoderConfig
from electra_kernels.models.layers import Attention, Rotation, StackedLinear, embedding, linear


class ModernEmbeddings(nn.Module):
    """Word, then LayerNorm: input_ids [B, T] → [B, T, H]. Positions come with the attention."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word = embedding(config.vocab_size, config.hidden_size, config.initializer_range)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.bias)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """input_ids [B, T] int64 → [B, T, H]; ``positions`` is not used.

        Raises:
            ValueError: token_type_ids is given.
        """
        if token_type_ids is not None:
            raise ValueError("token_type_ids is given, should be None: family 'modern' has no token types")
        return self.norm(self.word(input_ids))


class GeGLU(nn.Module):
    """Feed-forward block with a gate (Shazeer 2020, arXiv 2002.05202): output(gelu(a) * b), (a, b) = input(hidden)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, width, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.input = StackedLinear(2, size, width, std, bias=config.bias)
        self.output = linear(width, size, std, bias=config.bias)

    def forward(self, hidden: Tensor, dropout: float) -> Tensor:
        """hidden [B, T, H] → [B, T, H]."""
        activated, gate = self.input(hidden).chunk(2, dim=-1)
        return self.output(F.dropout(F.gelu(activated) * gate, dropout))


class ModernLayer(nn.Module):
    """One layer: attention and feed-forward, each after a LayerNorm and followed by its residual sum.

    The first layer has no norm before its attention, because the embeddings end with one.
    """

    def __init__(self, config: EncoderConfig, *, is_first: bool) -> None:
        super().__init__()
        self.dropout, size = config.dropout, config.hidden_size
        self.attention_norm: nn.LayerNorm | None = None
        if not is_first:
            self.attention_norm = nn.LayerNorm(size, eps=config.layer_norm_eps, bias=config.bias)
        self.attention = Attention(config, bias=config.bias)
        self.feed_forward_norm = nn.LayerNorm(size, eps=config.layer_norm_eps, bias=config.bias)
        self.feed_forward = GeGLU(config)

    def forward(self, hidden: Tensor, layout: Layout, rotation: Rotation | None, dropout: bool) -> Tensor:
        """hidden [B, T, H] → [B, T, H]."""
        rate = self.dropout if dropout else 0.0
        normed = hidden if self.attention_norm is None else self.attention_norm(hidden)
        hidden = hidden + F.dropout(self.attention(normed, layout, rotation, rate), rate)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden), rate)


def modern_transform(config: EncoderConfig) -> nn.Sequential:
    """The map between encoder and output layer of ModernBERT's heads: Linear, GELU, LayerNorm, [..., H] → [..., H]."""
    size = config.hidden_size
    return nn.Sequential(
        linear(size, size, config.initializer_range, bias=config.bias),
        nn.GELU(),
        nn.LayerNorm(size, eps=config.layer_norm_eps, bias=config.bias),
    )
