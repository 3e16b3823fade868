"""The Transformer encoder of both families: BERT and ELECTRA's, and ModernBERT's."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from electra_kernels.models.attention import (
    Layout,
    local_layout,
    packed_layout,
    padded_layout,
    piece_starts,
    positions_in_pieces,
    varlen_is_available,
)
from electra_kernels.models.config import EncoderConfig
from electra_kernels.models.electra_layers import ElectraEmbeddings, ElectraLayer
from electra_kernels.models.layers import Rotation, linear, rotations
from electra_kernels.models.modern_layers import ModernEmbeddings, ModernLayer

# A separate module in each family, so that a generator and a discriminator of different sizes can share it.
Embeddings = ElectraEmbeddings | ModernEmbeddings
Layer = ElectraLayer | ModernLayer


def new_embeddings(config: EncoderConfig) -> Embeddings:
    """The embeddings of the configuration's family."""
    return ModernEmbeddings(config) if config.family == "modern" else ElectraEmbeddings(config)


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
        self.embeddings = new_embeddings(config) if embeddings is None else embeddings
        self.projection: nn.Linear | None = None
        if config.embedding_size != config.hidden_size:
            std = config.initializer_range
            self.projection = linear(config.embedding_size, config.hidden_size, std)
        self.final_norm: nn.LayerNorm | None = None
        if config.family == "modern":
            self.layers = nn.ModuleList(
                ModernLayer(config, is_first=layer == 0) for layer in range(config.num_hidden_layers)
            )
            self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.bias)
        else:
            self.layers = nn.ModuleList(ElectraLayer(config) for _ in range(config.num_hidden_layers))

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
            token_type_ids: [B, T] int64, by default all 0; only "electra" has them.
            segments: [B, T] int64 for packed rows: the piece that a token belongs to, 0 at padding. A token attends to
                its own piece only, and its position counts from the start of the piece. attention_mask is then not
                used.
            dropout: False disables dropout in training mode too.

        Returns:
            [B, T, H].

        Raises:
            ValueError: T is above the number of absolute positions; for packed rows, the length of a piece is. (A GPU
                reports such a piece as an index out of range.) token_type_ids is given to a modern encoder.
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
        whole, local = self._scopes(layout, input_ids, positions)
        for index, layer in enumerate(self.layers):
            scope = whole if self.config.is_global(index) else local
            hidden = self._run(layer, hidden, *scope, dropout)
        return hidden if self.final_norm is None else self.final_norm(hidden)

    def _scopes(
        self, layout: Layout, input_ids: Tensor, positions: Tensor | None
    ) -> tuple[tuple[Layout, Rotation | None], tuple[Layout, Rotation | None]]:
        """Layout and rotation of the layers that attend to the whole sequence, and of those that attend to a window."""
        config, length, device = self.config, input_ids.shape[1], input_ids.device
        if config.family == "electra":
            return (layout, None), (layout, None)
        whole = layout, rotations(length, config.head_size, device, positions, config.rotary_base)
        if config.global_every == 1:
            return whole, whole
        local = local_layout(layout, length, config.local_window // 2, device)
        return whole, (
            local,
            rotations(length, config.head_size, device, positions, config.local_rotary_base),
        )

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
