"""Embeddings and layer of BERT and ELECTRA: learned positions, LayerNorm after each residual sum."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from electra_kernels.models.attention import Layout
from electra_kernels.models.config import EncoderConfig
from electra_kernels.models.layers import Attention, Rotation, embedding, linear


class ElectraEmbeddings(nn.Module):
    """Word + position + type, then LayerNorm: input_ids [B, T] → [B, T, E].

    It is a separate module so that a generator and a discriminator of different widths can share it.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, std = config.embedding_size, config.initializer_range
        self.word = embedding(config.vocab_size, size, std)
        self.position = embedding(config.max_position_embeddings, size, std)
        self.token_type = embedding(config.type_vocab_size, size, std)
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


class ElectraLayer(nn.Module):
    """One layer: attention and feed-forward, each followed by its residual sum and LayerNorm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout, std = config.dropout, config.initializer_range
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.intermediate = linear(config.hidden_size, config.intermediate_size, std)
        self.output = linear(config.intermediate_size, config.hidden_size, std)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, layout: Layout, rotation: Rotation | None, dropout: bool) -> Tensor:
        rate = self.dropout if dropout else 0.0
        attended = self.attention(hidden, layout, rotation, rate)
        hidden = self.attention_norm(hidden + F.dropout(attended, rate))
        return self.output_norm(hidden + F.dropout(self.feed_forward(hidden), rate))

    def feed_forward(self, hidden: Tensor) -> Tensor:
        return self.output(F.gelu(self.intermediate(hidden)))
