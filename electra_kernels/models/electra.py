"""ELECTRA: a generator proposes replacements, a discriminator decides for every token whether it was replaced."""

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from electra_kernels.models.config import ElectraConfig
from electra_kernels.models.discriminator import Discriminator
from electra_kernels.models.encoder import Encoder
from electra_kernels.models.proposer import Proposer
from electra_kernels.ops import MaskedTokens, ReplacedTokens, SampledLoss, TokenLoss

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ElectraOutput(NamedTuple):
    """Losses, predictions and batches of one joint step.

    ``mlm`` is None if the generator is not a model; ``rtd`` and ``replaced`` are None if no replacements were asked
    for.
    """

    loss: Tensor
    mlm: SampledLoss | None
    rtd: TokenLoss | None
    masked: MaskedTokens
    replaced: ReplacedTokens | None


class Electra(Proposer):
    """Generator and discriminator, trained together (Clark et al. 2020, section 2).

    Args:
        config: sizes and options.
        unigram, starts_word: as in `Proposer`.

    Attributes:
        config, generator: as in `Proposer`, whose encoder is the discriminator's.
        discriminator: the model that is kept after pre-training.
        tokenizer: the tokenizer of the training text if it is known, as in a checkpoint.

    Raises:
        ValueError: as `Proposer`.
    """

    tokenizer: "Tokenizer | None" = None

    def __init__(
        self, config: ElectraConfig, unigram: Tensor | None = None, *, starts_word: Tensor | None = None
    ) -> None:
        discriminator = Discriminator(Encoder(config.discriminator))
        super().__init__(config, discriminator.encoder, unigram, starts_word=starts_word)
        self.discriminator = discriminator

    def forward(
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
        rtd_normalizer: float | Tensor | None = None,
    ) -> ElectraOutput:
        """Mask, propose, replace, detect.

        The loss is MLM + rtd_weight * RTD, or RTD alone if the generator is not a model.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T], nonzero at real tokens. None, which is faster, if there is no padding.
            maskable: [B, T] bool or integer, nonzero where a token may be replaced. Set it to 0 at special tokens
                and padding, so that they are never replaced.
            segments: as in `Encoder`, for packed rows.
            masked: the batch after `Proposer.mask`, if it was masked before.
            masking_uniforms: [B, K, 2] float64, as in `electra_kernels.mask_tokens`.
            sampling_uniforms: [B, K] float64 in [0, 1), one number per replacement.
            replacements: the source of the replacements. "generator" is the one of the configuration. "unigram" draws
                tokens by frequency, which gives a model generator a head start. None computes the generator's loss
                alone.
            unigram_rows: [B] bool, rows whose replacements come from "unigram" where the others' are the generator's.
            mlm_normalizer, rtd_normalizer: denominators of the two losses, as ``normalizer`` of the ops.

        Raises:
            ValueError: replacements is unknown, is "unigram" without counts (or unigram_rows is given without them),
                or is None without a model as generator.
            TypeError, ValueError: as the ops.
        """
        masked, mlm, replaced = self.propose(
            input_ids,
            attention_mask,
            maskable,
            segments=segments,
            masked=masked,
            masking_uniforms=masking_uniforms,
            sampling_uniforms=sampling_uniforms,
            replacements=replacements,
            unigram_rows=unigram_rows,
            mlm_normalizer=mlm_normalizer,
        )
        if mlm is not None and replaced is None:
            return ElectraOutput(mlm.loss, mlm, None, masked, None)
        assert replaced is not None
        rtd = self.discriminator(replaced, attention_mask, segments=segments, normalizer=rtd_normalizer)
        loss = rtd.loss if mlm is None else mlm.loss + self.config.rtd_weight * rtd.loss
        return ElectraOutput(loss, mlm, rtd, masked, replaced)
