"""ELECTRA's generator: a masked language model whose tokens replace the original ones."""

from torch import Tensor, nn
from torch.nn import functional as F

from electra_kernels.models.encoder import Encoder
from electra_kernels.models.layers import linear
from electra_kernels.models.modern_layers import modern_transform
from electra_kernels.nn import GeneratorHead
from electra_kernels.ops import MaskedTokens, SampledLoss, gather_rows


class Generator(nn.Module):
    """A masked language model: encoder, transform, and a head whose weight is the word embedding.

    In training, logits are computed at the masked positions only.

    Args:
        encoder: the encoder whose word embedding becomes the output weight.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        config, word = encoder.config, encoder.embeddings.word.weight
        assert isinstance(word, nn.Parameter)
        self.encoder = encoder
        if config.family == "modern":
            self.transform = modern_transform(config)
        else:
            self.transform = nn.Sequential(
                linear(config.hidden_size, config.embedding_size, config.initializer_range),
                nn.GELU(),
                nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps),
            )
        self.head = GeneratorHead(config.embedding_size, config.vocab_size, weight=word)

    def forward(
        self,
        masked: MaskedTokens,
        attention_mask: Tensor | None = None,
        *,
        segments: Tensor | None = None,
        normalizer: float | Tensor | None = None,
        temperature: float = 1.0,
        ban_original: bool = False,
        uniforms: Tensor | None = None,
        dropout: bool = True,
    ) -> SampledLoss:
        """Predict the masked tokens, and draw one token for each of them.

        Args:
            masked: the batch as `electra_kernels.mask_tokens` returns it.
            attention_mask: [B, T], nonzero at real tokens; None if there is no padding.
            segments, dropout: as in `Encoder`.
            normalizer, temperature, ban_original, uniforms: as in `electra_kernels.linear_cross_entropy_sample`.

        Returns:
            loss [] float32, tokens [B, K] int64, is_top1 [B, K] bool and logsumexp [B, K] float32.

        Raises:
            TypeError, ValueError: as the op and `Encoder`.
        """
        hidden = self.encoder(masked.input_ids, attention_mask, segments=segments, dropout=dropout)
        return self.head(
            self.transform(gather_rows(hidden, masked.positions)),
            masked.targets,
            normalizer=normalizer,
            temperature=temperature,
            ban_original=ban_original,
            uniforms=uniforms,
        )

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """input_ids [B, T] → logits [B, T, V] float32 at every position; for inspection, not for training."""
        hidden = self.transform(self.encoder(input_ids, attention_mask, segments=segments))
        return F.linear(hidden, self.head.weight, self.head.bias).float()
