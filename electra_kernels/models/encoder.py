"""The Transformer encoder of BERT and ELECTRA, with rotary positions and pre-norm as options."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from electra_kernels.models.attention import (
    Layout,
    attend,
    packed_layout,
    padded_layout,
    piece_starts,
    positions_in_pieces,
    varlen_is_available,
)
from electra_kernels.models.config import EncoderConfig

ROTARY_BASE = 10_000.0

# Cosines and sines, see `rotations`.
Rotation = tuple[Tensor, Tensor]


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
            ValueError: T is above the number of absolute positions, or one of ``positions`` on a CPU is.
        """
        # Type 0 everywhere is one row for the whole batch, which needs no lookup.
        types = self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids)
        if self.position is not None:
            length, limit = input_ids.shape[1], self.position.num_embeddings
            if length > limit:
                _check_positions(list(input_ids.shape), positions, limit)
            types = types + (self.position.weight[:length] if positions is None else self.position(positions))
        return self.norm(self.word(input_ids) + types)


def _check_positions(shape: list[int], positions: Tensor | None, limit: int) -> None:
    """Raise if a position reaches ``limit``. On a GPU, the embedding itself refuses ``positions`` of packed rows."""
    if positions is None:
        raise ValueError(f"input_ids has shape {shape}, should be [B, T] with T at most {limit}")
    if positions.device.type == "cpu" and not torch.compiler.is_compiling() and (positions >= limit).any():
        longest = int(positions.max()) + 1
        raise ValueError(f"segments has a piece of {longest} tokens, should have at most {limit} in each")


class Attention(nn.Module):
    """Multi-head self-attention; the three projections are one matrix product."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        size, std = config.hidden_size, config.initializer_range
        self.qkv = linear(size, 3 * size, std)
        self.output = linear(size, size, std)

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


class Layer(nn.Module):
    """One Transformer layer: attention and feed-forward, each with its residual sum and LayerNorm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.pre_norm, self.dropout, std = config.norm == "pre", config.dropout, config.initializer_range
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = linear(config.hidden_size, config.intermediate_size, std)
        self.output = linear(config.intermediate_size, config.hidden_size, std)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, layout: Layout, rotation: Rotation | None, dropout: bool) -> Tensor:
        rate = self.dropout if dropout else 0.0
        if self.pre_norm:
            attended = self.attention(self.attention_norm(hidden), layout, rotation, rate)
            hidden = hidden + F.dropout(attended, rate)
            return hidden + F.dropout(self.feed_forward(self.output_norm(hidden)), rate)
        attended = self.attention(hidden, layout, rotation, rate)
        hidden = self.attention_norm(hidden + F.dropout(attended, rate))
        return self.output_norm(hidden + F.dropout(self.feed_forward(hidden), rate))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        return self.output(F.gelu(self.intermediate(hidden)))


class Encoder(nn.Module):
    """The Transformer encoder: token ids to hidden states.

    Args:
        config: sizes and options.
        embeddings: the embeddings of another encoder, which are then shared; by default new ones.

    Attributes:
        checkpoint_layers: keep only the input of each layer for the backward pass, and compute the layer a second time
            there. It saves memory and changes no result.
        max_pieces: an upper bound of the number of pieces in a packed row; None if it is not known. A small one makes
            packed rows faster on a GPU. The hidden states of a row with more pieces are NaN.
    """

    checkpoint_layers: bool = False
    max_pieces: int | None = None

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
                its own piece only, and its position counts from the start of the piece. attention_mask is then not
                used.
            dropout: False disables dropout in training mode too.

        Returns:
            [B, T, H].

        Raises:
            ValueError: T is above the number of absolute positions; for packed rows, the length of a piece is. (A GPU
                reports such a piece as an index out of range.)
        """
        dropout = dropout and self.training
        positions = None if segments is None else positions_in_pieces(segments)
        hidden = self.embeddings(input_ids, token_type_ids, positions)
        hidden = F.dropout(hidden, self.config.dropout if dropout else 0.0)
        if self.projection is not None:
            hidden = self.projection(hidden)
        if segments is None:
            layout = padded_layout(attention_mask)
        else:
            hidden, layout = self._confine(hidden, segments, dropout)
        rotation = None
        if self.config.position_embedding == "rotary":
            rotation = rotations(input_ids.shape[1], self.config.head_size, input_ids.device, positions)
        for layer in self.layers:
            hidden = self._run(layer, hidden, layout, rotation, dropout)
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def _run(
        self, layer: nn.Module, hidden: Tensor, layout: Layout, rotation: Rotation | None, dropout: bool
    ) -> Tensor:
        if not (self.checkpoint_layers and torch.is_grad_enabled()):
            return layer(hidden, layout, rotation, dropout)
        keep_state = dropout and self.config.dropout > 0  # of the random generators
        return checkpoint(
            layer, hidden, layout, rotation, dropout, use_reentrant=False, preserve_rng_state=keep_state
        )

    def _confine(self, hidden: Tensor, segments: Tensor, dropout: bool) -> tuple[Tensor, Layout]:
        """The layout of packed rows, and ``hidden`` with NaN in rows of more than ``max_pieces`` pieces."""
        most = segments.shape[1]
        if self.max_pieces is not None:
            most = min(self.max_pieces + 1, most)  # one more for the padding
            is_over = piece_starts(segments).sum(-1) > most
            hidden = hidden.masked_fill(is_over[:, None, None], torch.nan)
        device, dtype = hidden.device.type, hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        varlen = varlen_is_available(hidden.device, dtype, self.config.head_size)
        return hidden, packed_layout(segments, most, varlen and not (dropout and self.config.dropout > 0))


def rotations(length: int, head_size: int, device: torch.device, positions: Tensor | None = None) -> Rotation:
    """Cosines and sines of t * 10000**(-2 i / d) (Su et al. 2021, equation 15).

    Returns:
        Two tensors [T, 1, 1, d / 2] float32 for t = 0 to T - 1, or [B, T, 1, 1, d / 2] for the ``positions`` [B, T].
    """
    exponent = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), ROTARY_BASE**-exponent)
    if positions is not None:
        angles = angles[positions]
    return angles.cos()[..., None, None, :], angles.sin()[..., None, None, :]


def rotate(vectors: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate [B, T, n, heads, d] by the angles of each position; dimension i is paired with i + d / 2."""
    cosine, sine = cosine.to(vectors.dtype), sine.to(vectors.dtype)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
