"""The Transformer encoder of BERT and ELECTRA, with rotary positions and pre-norm as options."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from electra_kernels.models.config import EncoderConfig

ROTARY_BASE = 10_000.0


def truncated_normal_(weight: Tensor, std: float) -> Tensor:
    """Fill with a normal distribution cut at two standard deviations (google-research/electra, create_initializer)."""
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """A Linear with ELECTRA's initialisation: truncated normal weight, zero bias."""
    layer = nn.Linear(inputs, outputs)
    truncated_normal_(layer.weight, std)
    nn.init.zeros_(layer.bias)
    return layer


def _embedding(entries: int, size: int, std: float) -> nn.Embedding:
    layer = nn.Embedding(entries, size)
    truncated_normal_(layer.weight, std)
    return layer


class Embeddings(nn.Module):
    """Word + position (absolute only) + type, then LayerNorm: input_ids [B, T] → [B, T, E].

    It is a separate module so that a generator and a discriminator of different widths can share it.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, std = config.embedding_size, config.initializer_range
        self.word = _embedding(config.vocab_size, size, std)
        self.position: nn.Embedding | None = None
        if config.position_embedding == "absolute":
            self.position = _embedding(config.max_position_embeddings, size, std)
        self.token_type = _embedding(config.type_vocab_size, size, std)
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """input_ids, token_type_ids (None: all 0), positions (None: 0 to T - 1) [B, T] int64 → [B, T, E].

        Raises:
            ValueError: T is above the number of absolute positions.
        """
        # Type 0 everywhere is one row for the whole batch, which needs no lookup.
        types = self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids)
        if self.position is not None:
            length, limit = input_ids.shape[1], self.position.num_embeddings
            if length > limit:
                raise ValueError(
                    f"input_ids has shape {list(input_ids.shape)}, should be [B, T] with T at most {limit}"
                )
            types = types + (self.position.weight[:length] if positions is None else self.position(positions))
        return self.norm(self.word(input_ids) + types)


class Attention(nn.Module):
    """Multi-head self-attention; the three projections are one matrix product."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        size, std = config.hidden_size, config.initializer_range
        self.qkv = linear(size, 3 * size, std)
        self.output = linear(size, size, std)

    def forward(
        self, hidden: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None, dropout: float
    ) -> Tensor:
        """hidden [B, T, H], mask [B, 1, 1, T] bool, rotation 2 x [T, 1, 1, d / 2] → [B, T, H]."""
        batch, length, width = hidden.shape
        qkv = self.qkv(hidden).view(batch, length, 3, self.heads, width // self.heads)
        if rotation is None:
            query, key, value = qkv.unbind(2)
        else:
            query, key = rotate(qkv[:, :, :2], *rotation).unbind(2)
            value = qkv[:, :, 2]
        attended = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask, dropout)
        return self.output(attended.transpose(1, 2).reshape(batch, length, width))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Softmax attention over [B, heads, T, d].

    On a CPU, half precision is computed in float32: for short rows without dropout, torch's gradient in half precision
    takes several times as long there (benchmarks/FINDINGS.md).
    """
    dtype = query.dtype
    if query.device.type != "cpu" or dtype.itemsize >= 4:
        return F.scaled_dot_product_attention(query, key, value, mask, dropout)
    with torch.autocast(query.device.type, enabled=False):
        attended = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, dropout)
    return attended.to(dtype)


class Layer(nn.Module):
    """One Transformer layer: attention and feed-forward, each with its residual sum and LayerNorm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm, std = config.norm == "pre", config.initializer_range
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = linear(config.hidden_size, config.intermediate_size, std)
        self.output = linear(config.intermediate_size, config.hidden_size, std)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, hidden: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None, dropout: float
    ) -> Tensor:
        if self.pre_norm:
            attended = self.attention(self.attention_norm(hidden), mask, rotation, dropout)
            hidden = hidden + F.dropout(attended, dropout)
            return hidden + F.dropout(self.feed_forward(self.output_norm(hidden)), dropout)
        attended = self.attention(hidden, mask, rotation, dropout)
        hidden = self.attention_norm(hidden + F.dropout(attended, dropout))
        return self.output_norm(hidden + F.dropout(self.feed_forward(hidden), dropout))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        return self.output(F.gelu(self.intermediate(hidden)))


class Encoder(nn.Module):
    """The Transformer encoder: token ids to hidden states.

    Args:
        config: sizes and options.
        embeddings: the embeddings of another encoder, which are then shared; by default new ones.
    """

    def __init__(self, config: EncoderConfig, embeddings: Embeddings | None = None) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config) if embeddings is None else embeddings
        self.projection: nn.Linear | None = None
        if config.embedding_size != config.hidden_size:
            std = config.initializer_range
            self.projection = linear(config.embedding_size, config.hidden_size, std)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_norm: nn.LayerNorm | None = None
        if config.norm == "pre":
            self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        segments: Tensor | None = None,
        dropout: bool = True,
    ) -> Tensor:
        """Compute the hidden state of every token.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T], nonzero where a token may be attended to. With None, which is faster, no mask is
                built: every token may be attended to.
            token_type_ids: [B, T] int64, by default all 0.
            segments: [B, T] int64 for packed rows: the piece that a token belongs to, 0 at padding. A token attends to
                its own piece only, and its position counts from the start of the piece.
            dropout: False disables dropout in training mode too.

        Returns:
            [B, T, H].

        Raises:
            ValueError: T is above the number of absolute positions.
        """
        rate = self.config.dropout if self.training and dropout else 0.0
        positions = None if segments is None else positions_in_pieces(segments)
        hidden = F.dropout(self.embeddings(input_ids, token_type_ids, positions), rate)
        if self.projection is not None:
            hidden = self.projection(hidden)
        mask = None if attention_mask is None else (attention_mask != 0)[:, None, None, :]
        if segments is not None:
            mask = (segments[:, :, None] == segments[:, None, :])[:, None]
        rotation = None
        if self.config.position_embedding == "rotary":
            rotation = rotations(input_ids.shape[1], self.config.head_size, input_ids.device)
            if positions is not None:
                rotation = tuple(part.squeeze(1)[positions].unsqueeze(2) for part in rotation)  # type: ignore[assignment]
        for layer in self.layers:
            hidden = layer(hidden, mask, rotation, rate)
        return hidden if self.final_norm is None else self.final_norm(hidden)


def positions_in_pieces(segments: Tensor) -> Tensor:
    """[B, T], the position of each token counted from the start of its piece."""
    column = torch.arange(segments.shape[1], device=segments.device)
    is_start = torch.ones_like(segments, dtype=torch.bool)
    is_start[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return column - (column * is_start).cummax(-1).values


def rotations(length: int, head_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [T, 1, 1, d / 2] float32, of t * 10000**(-2 i / d) (Su et al. 2021, equation 15)."""
    exponent = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), ROTARY_BASE**-exponent)
    return angles.cos()[:, None, None, :], angles.sin()[:, None, None, :]


def rotate(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate [B, T, n, heads, d] by the angles of each position; dimension i is paired with i + d / 2."""
    cosine, sine = cosine.to(vectors.dtype), sine.to(vectors.dtype)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
