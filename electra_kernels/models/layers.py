"""Parts that the layers of both families have: initialisation, self-attention, rotary positions."""

import torch
from torch import Tensor, nn

from electra_kernels.models.attention import Layout, attend
from electra_kernels.models.config import EncoderConfig

# Cosines and sines, see `rotations`.
Rotation = tuple[Tensor, Tensor]


def truncated_normal_(weight: Tensor, std: float) -> Tensor:
    """Fill with a normal distribution cut at two standard deviations (google-research/electra, create_initializer)."""
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear(inputs: int, outputs: int, std: float, *, bias: bool = True) -> nn.Linear:
    """A Linear with ELECTRA's initialisation: truncated normal weight, zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    _initialise(layer, std)
    return layer


def _initialise(layer: nn.Linear, std: float) -> None:
    truncated_normal_(layer.weight, std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def embedding(entries: int, size: int, std: float) -> nn.Embedding:
    layer = nn.Embedding(entries, size)
    truncated_normal_(layer.weight, std)
    return layer


class StackedLinear(nn.Linear):
    """A Linear whose weight is ``count`` matrices [outputs, inputs], one below the other: one product for all of them.

    Muon makes the update of each of them orthogonal by itself.
    """

    def __init__(self, count: int, inputs: int, outputs: int, std: float, *, bias: bool) -> None:
        super().__init__(inputs, count * outputs, bias=bias)
        self.count = count
        _initialise(self, std)


class Attention(nn.Module):
    """Multi-head self-attention; the three projections are one matrix product."""

    def __init__(self, config: EncoderConfig, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        size, std = config.hidden_size, config.initializer_range
        self.qkv = StackedLinear(3, size, size, std, bias=bias)
        self.output = linear(size, size, std, bias=bias)

    def forward(self, hidden: Tensor, layout: Layout, rotation: Rotation | None, dropout: float) -> Tensor:
        """hidden [B, T, H], rotation as from `rotations` → [B, T, H]."""
        batch, length, width = hidden.shape
        qkv = self.qkv(hidden).view(batch, length, 3, self.heads, width // self.heads)
        if rotation is None:
            query, key, value = qkv.unbind(2)
        else:
            query, key = rotate(qkv[:, :, :2], *rotation).unbind(2)
            value = qkv[:, :, 2]
        return self.output(attend(query, key, value, layout, dropout).reshape(batch, length, width))


def rotations(
    length: int, head_size: int, device: torch.device, positions: Tensor | None = None, base: float = 10_000.0
) -> Rotation:
    """Cosines and sines of t * base**(-2 i / d) (Su et al. 2021, equation 15).

    Returns:
        Two tensors [T, 1, 1, d / 2] float32 for t = 0 to T - 1, or [B, T, 1, 1, d / 2] for the ``positions`` [B, T].
    """
    exponent = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), base**-exponent)
    if positions is not None:
        angles = angles[positions]
    return angles.cos()[..., None, None, :], angles.sin()[..., None, None, :]


def rotate(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate [B, T, n, heads, d] by the angles of each position; dimension i is paired with i + d / 2."""
    cosine, sine = cosine.to(vectors.dtype), sine.to(vectors.dtype)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
