"""The first half of ELECTRA's step: mask tokens and propose replacements for them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from electra_kernels.models.config import ElectraConfig
from electra_kernels.models.encoder import Encoder
from electra_kernels.models.generator import Generator
from electra_kernels.models.unigram import Unigram
from electra_kernels.models.word_masking import mask_units
from electra_kernels.ops import MaskedTokens, ReplacedTokens, SampledLoss, mask_tokens, replace_tokens
from electra_kernels.uniforms import draw_uniforms

_REPLACEMENTS = ("generator", "unigram", None)


class Proposal(NamedTuple):
    """A masked batch, the generator's predictions for it, and the batch with replacements.

    ``mlm`` is None if the generator is not a model, ``replaced`` is None if no replacements were asked for.
    """

    masked: MaskedTokens
    mlm: SampledLoss | None
    replaced: ReplacedTokens | None


class Proposer(nn.Module):
    """Masks tokens and proposes replacements: ELECTRA without a discriminator.

    Args:
        config: sizes and options.
        encoder: the encoder that is kept after pre-training. config.tie decides whether the generator shares its
            embeddings, the whole encoder, or nothing.
        unigram: [V] counts or probabilities of the tokens, from which generator_kind="unigram" and
            replacements="unigram" draw. Give special tokens the count 0.
        starts_word: [V] bool, True at the tokens that start a word. config.whole_word_masking needs it.

    Attributes:
        generator: None unless generator_kind is "model". With tie="embeddings" its encoder has the embeddings of
            ``encoder``; with tie="all" its encoder *is* ``encoder``.

    Raises:
        ValueError: unigram is missing, is not wanted, or is not [V].
    """

    starts_word: Tensor | None

    def __init__(
        self,
        config: ElectraConfig,
        encoder: Encoder,
        unigram: Tensor | None = None,
        *,
        starts_word: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        # A fact about the tokenizer, which a checkpoint of the weights does not repeat.
        self.register_buffer("starts_word", starts_word, persistent=False)
        self.generator: Generator | None = None
        if config.generator_kind == "model":
            self.generator = Generator(_generator_encoder(config, encoder))
        self.unigram = _unigram(config, unigram)

    def mask(self, input_ids: Tensor, maskable: Tensor, *, uniforms: Tensor | None = None) -> MaskedTokens:
        """Mask the tokens that the generator has to predict, as configured.

        The arguments and the result are those of `electra_kernels.mask_tokens`, also with whole_word_masking or
        max_ngram, which use `electra_kernels.models.word_masking.mask_units`.

        Raises:
            ValueError: starts_word was not given and config.whole_word_masking is True.
            TypeError, ValueError: as `mask_tokens` or `mask_units`.
        """
        config = self.config
        options: dict[str, Any] = {
            "mask_token_id": config.mask_token_id,
            "vocab_size": config.discriminator.vocab_size,
            "probability": config.mask_probability,
            "uniforms": uniforms,
        }
        if not config.whole_word_masking and config.max_ngram == 1:
            return mask_tokens(input_ids, maskable, **options)
        if config.whole_word_masking and self.starts_word is None:
            raise ValueError("starts_word is None with whole_word_masking=True, should be bool [V]")
        starts_word = self.starts_word if config.whole_word_masking else None
        return mask_units(input_ids, maskable, starts_word, max_ngram=config.max_ngram, **options)

    def propose(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        maskable: Tensor,
        *,
        segments: Tensor | None = None,
        masked: MaskedTokens | None = None,
        masking_uniforms: Tensor | None = None,
        sampling_uniforms: Tensor | None = None,
        replacements: str | None = "generator",
        unigram_rows: Tensor | None = None,
        mlm_normalizer: float | Tensor | None = None,
    ) -> Proposal:
        """Mask the batch, compute the generator's loss on it, and write its samples into the batch.

        The arguments and errors are those of `Electra.forward`.
        """
        self._check_replacements(replacements)
        if unigram_rows is not None:
            self._check_replacements("unigram")
        config = self.config
        if masked is None:
            masked = self.mask(input_ids, maskable, uniforms=masking_uniforms)
        if sampling_uniforms is None:
            sampling_uniforms = draw_uniforms(masked.targets.shape, device=masked.targets.device)
        mlm = None
        if self.generator is not None:
            mlm = self.generator(
                masked,
                attention_mask,
                segments=segments,
                normalizer=mlm_normalizer,
                temperature=config.temperature,
                ban_original=config.ban_original,
                uniforms=sampling_uniforms,
                dropout=config.sampling_dropout,
            )
        if mlm is not None and replacements is None:
            return Proposal(masked, mlm, None)
        tokens = self._tokens(mlm, masked, replacements, unigram_rows, sampling_uniforms)
        return Proposal(masked, mlm, replace_tokens(input_ids, masked.positions, tokens))

    def _tokens(
        self,
        mlm: SampledLoss | None,
        masked: MaskedTokens,
        replacements: str | None,
        unigram_rows: Tensor | None,
        uniforms: Tensor,
    ) -> Tensor:
        generated = mlm.tokens if mlm is not None and replacements == "generator" else None
        if generated is not None and unigram_rows is None:
            return generated
        assert self.unigram is not None
        drawn: Tensor = self.unigram(masked.targets, uniforms=uniforms, ban_original=self.config.ban_original)
        if generated is None or unigram_rows is None:
            return drawn
        return torch.where(unigram_rows[:, None], drawn, generated)

    def _check_replacements(self, replacements: str | None) -> None:
        if replacements not in _REPLACEMENTS:
            expected = ", ".join(map(repr, _REPLACEMENTS))
            raise ValueError(f"replacements is {replacements!r}, should be one of {expected}")
        if replacements is None and self.generator is None:
            kind = self.config.generator_kind
            raise ValueError(f"replacements is None, should be 'generator' with generator_kind={kind!r}")
        if replacements == "unigram" and (self.unigram is None or self.config.generator_kind == "uniform"):
            raise ValueError(
                "replacements is 'unigram', should be so only if Electra was given unigram counts"
            )


def _generator_encoder(config: ElectraConfig, encoder: Encoder) -> Encoder:
    if config.tie == "all" or config.generator is None:
        return encoder
    return Encoder(config.generator, encoder.embeddings if config.tie == "embeddings" else None)


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
