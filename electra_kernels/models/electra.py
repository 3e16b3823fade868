"""ELECTRA: a generator proposes replacements, a discriminator decides for every token if it was replaced."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from electra_kernels.models.config import ElectraConfig
from electra_kernels.models.encoder import Encoder, linear
from electra_kernels.models.unigram import Unigram
from electra_kernels.nn import DiscriminatorHead, GeneratorHead
from electra_kernels.ops import (
    MaskedTokens,
    ReplacedTokens,
    SampledLoss,
    TokenLoss,
    gather_rows,
    mask_tokens,
    replace_tokens,
)
from electra_kernels.uniforms import draw_uniforms

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_REPLACEMENTS = ("generator", "unigram", None)


class Generator(nn.Module):
    """A masked language model whose output weight is its word embedding: encoder, transform, head.

    Logits exist at masked positions only.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        config, word = encoder.config, encoder.embeddings.word.weight
        assert isinstance(word, nn.Parameter)
        self.encoder = encoder
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
        normalizer: float | Tensor | None = None,
        temperature: float = 1.0,
        ban_original: bool = False,
        uniforms: Tensor | None = None,
        dropout: bool = True,
    ) -> SampledLoss:
        """Loss [] of the masked tokens and one token [B, K] drawn for each of them.

        ``dropout`` as `Encoder`, the other keywords as `electra_kernels.linear_cross_entropy_sample`.
        """
        hidden = self.encoder(masked.input_ids, attention_mask, dropout=dropout)
        return self.head(
            self.transform(gather_rows(hidden, masked.positions)),
            masked.targets,
            normalizer=normalizer,
            temperature=temperature,
            ban_original=ban_original,
            uniforms=uniforms,
        )

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """input_ids [B, T] → [B, T, V] float32, at every position; for inspection, not for training."""
        hidden = self.transform(self.encoder(input_ids, attention_mask))
        return F.linear(hidden, self.head.weight, self.head.bias).float()


class Discriminator(nn.Module):
    """A binary classifier of every token, original or replaced: encoder, transform, head."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        size, std = encoder.config.hidden_size, encoder.config.initializer_range
        self.encoder = encoder
        self.transform = nn.Sequential(linear(size, size, std), nn.GELU())
        self.head = DiscriminatorHead(size)

    def forward(
        self,
        replaced: ReplacedTokens,
        attention_mask: Tensor | None = None,
        *,
        normalizer: float | Tensor | None = None,
    ) -> TokenLoss:
        """Loss [] over the tokens set in attention_mask [B, T] (None: all), logits [B, T] and counts [4]."""
        hidden = self.transform(self.encoder(replaced.input_ids, attention_mask))
        return self.head(hidden, replaced.is_replaced, attention_mask, normalizer=normalizer)

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """input_ids [B, T] → [B, T] float32, above 0 where a token looks replaced."""
        hidden = self.transform(self.encoder(input_ids, attention_mask))
        return F.linear(hidden, self.head.weight, self.head.bias).squeeze(-1).float()


class Proposal(NamedTuple):
    """``mlm`` is None without a model as generator, ``replaced`` without replacements."""

    masked: MaskedTokens
    mlm: SampledLoss | None
    replaced: ReplacedTokens | None


class Proposer(nn.Module):
    """Masks tokens and proposes replacements: ELECTRA without what judges them.

    Args:
        config: sizes and options.
        encoder: the one that is kept; its embeddings or the whole of it are the generator's, as config.tie says.
        unigram: [V] counts or probabilities of the tokens, which generator_kind="unigram" and
            replacements="unigram" draw from. Give special tokens the count 0.

    Attributes:
        generator: None unless generator_kind is "model". With tie="embeddings" its encoder has the embeddings of
            ``encoder``, with "all" it *is* ``encoder``.

    Raises:
        ValueError: unigram missing, not wanted or not [V].
    """

    def __init__(self, config: ElectraConfig, encoder: Encoder, unigram: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.generator: Generator | None = None
        if config.generator_kind == "model":
            self.generator = Generator(_generator_encoder(config, encoder))
        self.unigram = _unigram(config, unigram)

    def propose(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        maskable: Tensor,
        *,
        masking_uniforms: Tensor | None = None,
        sampling_uniforms: Tensor | None = None,
        replacements: str | None = "generator",
        mlm_normalizer: float | Tensor | None = None,
    ) -> Proposal:
        """The masked batch, the generator's loss on it, and the batch with its samples. Arguments as `Electra`."""
        self._check_replacements(replacements)
        config = self.config
        masked = mask_tokens(
            input_ids,
            maskable,
            mask_token_id=config.mask_token_id,
            vocab_size=config.discriminator.vocab_size,
            probability=config.mask_probability,
            uniforms=masking_uniforms,
        )
        if sampling_uniforms is None:
            sampling_uniforms = draw_uniforms(masked.targets.shape, device=masked.targets.device)
        mlm = None
        if self.generator is not None:
            mlm = self.generator(
                masked,
                attention_mask,
                normalizer=mlm_normalizer,
                temperature=config.temperature,
                ban_original=config.ban_original,
                uniforms=sampling_uniforms,
                dropout=config.sampling_dropout,
            )
        if mlm is not None and replacements is None:
            return Proposal(masked, mlm, None)
        tokens = self._tokens(mlm, masked, replacements, sampling_uniforms)
        return Proposal(masked, mlm, replace_tokens(input_ids, masked.positions, tokens))

    def _tokens(
        self, mlm: SampledLoss | None, masked: MaskedTokens, replacements: str | None, uniforms: Tensor
    ) -> Tensor:
        if mlm is not None and replacements == "generator":
            return mlm.tokens
        assert self.unigram is not None
        return self.unigram(masked.targets, uniforms=uniforms, ban_original=self.config.ban_original)

    def _check_replacements(self, replacements: str | None) -> None:
        if replacements not in _REPLACEMENTS:
            expected = ", ".join(map(repr, _REPLACEMENTS))
            raise ValueError(f"replacements is {replacements!r}, should be one of {expected}")
        if replacements is None and self.generator is None:
            kind = self.config.generator_kind
            raise ValueError(f"replacements is None, should be 'generator' with generator_kind={kind!r}")
        if replacements == "unigram" and (self.unigram is None or self.config.generator_kind == "uniform"):
            raise ValueError(
                "replacements is 'unigram', should be so only where unigram was given to Electra"
            )


class ElectraOutput(NamedTuple):
    """``mlm`` is None without a model as generator, ``rtd`` and ``replaced`` without replacements."""

    loss: Tensor
    mlm: SampledLoss | None
    rtd: TokenLoss | None
    masked: MaskedTokens
    replaced: ReplacedTokens | None


class Electra(Proposer):
    """Generator and discriminator, trained together (Clark et al. 2020, section 2).

    Args and errors: as `Proposer`, whose encoder is the discriminator's.

    Attributes:
        config, generator: as of `Proposer`.
        tokenizer: of the text that it was trained on, where that is known, as in a checkpoint.
    """

    tokenizer: "Tokenizer | None" = None

    def __init__(self, config: ElectraConfig, unigram: Tensor | None = None) -> None:
        discriminator = Discriminator(Encoder(config.discriminator))
        super().__init__(config, discriminator.encoder, unigram)
        self.discriminator = discriminator

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        maskable: Tensor,
        *,
        masking_uniforms: Tensor | None = None,
        sampling_uniforms: Tensor | None = None,
        replacements: str | None = "generator",
        mlm_normalizer: float | Tensor | None = None,
        rtd_normalizer: float | Tensor | None = None,
    ) -> ElectraOutput:
        """Mask, propose, replace, detect; loss = MLM + rtd_weight * RTD, or RTD where no model generates.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T], nonzero where a token is no padding; None where there is none: faster.
            maskable: [B, T] bool or integer, nonzero where a token may be replaced. Special tokens and
                padding are not: they are never replaced.
            masking_uniforms: [B, K, 2] float64, as `electra_kernels.mask_tokens`.
            sampling_uniforms: [B, K] float64 in [0, 1), one number per replacement.
            replacements: who proposes them: "generator" (the one of the configuration), "unigram" (by their
                frequency, while a model generator only learns: a head start) or None (the generator's loss
                alone).
            mlm_normalizer, rtd_normalizer: denominators of the two losses, as `normalizer` of the ops.

        Raises:
            ValueError: replacements unknown, "unigram" without counts, or None without a model as generator.
            TypeError, ValueError: as the ops.
        """
        masked, mlm, replaced = self.propose(
            input_ids,
            attention_mask,
            maskable,
            masking_uniforms=masking_uniforms,
            sampling_uniforms=sampling_uniforms,
            replacements=replacements,
            mlm_normalizer=mlm_normalizer,
        )
        if mlm is not None and replaced is None:
            return ElectraOutput(mlm.loss, mlm, None, masked, None)
        assert replaced is not None
        rtd = self.discriminator(replaced, attention_mask, normalizer=rtd_normalizer)
        loss = rtd.loss if mlm is None else mlm.loss + self.config.rtd_weight * rtd.loss
        return ElectraOutput(loss, mlm, rtd, masked, replaced)


def _generator_encoder(config: ElectraConfig, discriminator: Encoder) -> Encoder:
    if config.tie == "all" or config.generator is None:
        return discriminator
    return Encoder(config.generator, discriminator.embeddings if config.tie == "embeddings" else None)


def _unigram(config: ElectraConfig, counts: Tensor | None) -> Unigram | None:
    vocab_size, kind = config.discriminator.vocab_size, config.generator_kind
    if kind == "uniform":
        if counts is not None:
            raise ValueError("unigram is given with generator_kind='uniform', should be None")
        return Unigram(torch.ones(vocab_size))
    if counts is None:
        if kind == "unigram":
            raise ValueError(
                f"unigram is None with generator_kind='unigram', should be counts [{vocab_size}]"
            )
        return None
    if counts.shape != (vocab_size,):
        raise ValueError(f"unigram has shape {list(counts.shape)}, should be [V] = [{vocab_size}]")
    return Unigram(counts)
