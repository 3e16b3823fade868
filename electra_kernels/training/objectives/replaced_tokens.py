"""Replaced-token detection: a generator fills masked positions, a discriminator finds the tokens that it changed.

The generator is a trained model (ELECTRA, Clark et al. 2020) or a fixed distribution over the vocabulary.
"""

from dataclasses import astuple, replace
from typing import Any

import torch
from torch import Tensor

from electra_kernels import gather_rows
from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.facts import TextFacts
from electra_kernels.models import Electra, ElectraConfig, ElectraOutput, Encoder, Proposal, Proposer
from electra_kernels.training.objectives.base import Objective, ratio
from electra_kernels.training.objectives.detection import detection_metrics
from electra_kernels.training.objectives.draws import row_draws
from electra_kernels.training.objectives.masked_batch import MaskedBatch, masked_batch, prediction_metrics


class GeneratorObjective(Objective):
    """A generator, trained beside the encoder, fills the masks of 15 % of the tokens.

    With ``head_start_replacements=None`` the generator learns alone during the head start. The discriminator is not
    part of the loss then, and its parameters get no gradient.

    Args:
        config, text: as `Objective`.
        head_start: share of the training before the generator's own samples are used.
        head_start_replacements: source of the replacements until then: "unigram" (word frequencies) or None (no
            replacements).
        unigram_share: share of the rows that get "unigram" replacements after the head start too, in training mode.
    """

    per = "token"
    masks = True
    shares_vocabulary = True

    def __init__(
        self,
        config: ElectraConfig,
        text: TextFacts,
        *,
        head_start: float = 0.0,
        head_start_replacements: str | None = None,
        unigram_share: float = 0.0,
    ) -> None:
        super().__init__(config, text)
        self.head_start, self.head_start_replacements = head_start, head_start_replacements
        self.unigram_share = unigram_share

    @property
    def _proposer(self) -> Proposer:
        """The module that masks tokens and proposes replacements."""
        raise NotImplementedError

    def replacements(self, progress: float) -> str | None:
        """The source of the replacements at this point of the training: "generator", "unigram" or None."""
        return self.head_start_replacements if progress < self.head_start else "generator"

    def batch(self, tokens: TokenBatch, seed: int) -> MaskedBatch:
        batch = masked_batch(self._proposer.mask, tokens, self.config.mask_probability, seed)
        if not self.training or self.unigram_share == 0.0:
            return batch
        return batch._replace(
            unigram_rows=row_draws(tokens.numbers, "unigram rows", seed) < self.unigram_share
        )

    def counts(self, batch: MaskedBatch) -> Tensor:
        """[2]: masked tokens, and all tokens but padding."""
        return torch.stack([batch.targets, batch.tokens.attention_mask.sum()])

    def propose(self, batch: MaskedBatch, progress: float, masked: Tensor) -> Proposal:
        """The generator's loss and replacements; ``masked`` [] is the number of masked tokens in the whole batch."""
        tokens = batch.tokens
        return self._proposer.propose(
            tokens.input_ids,
            tokens.attention_mask,
            tokens.maskable,
            segments=tokens.segments,
            masked=batch.masked,
            sampling_uniforms=batch.sampling_uniforms,
            replacements=self.replacements(progress),
            unigram_rows=batch.unigram_rows,
            mlm_normalizer=masked,
        )


def proposal_metrics(
    proposal: Proposal | ElectraOutput, batch: MaskedBatch, masked: Tensor
) -> dict[str, Tensor]:
    """Metrics of a generator.

    Where it is a model, ``mlm_loss`` and ``mlm_accuracy`` at the masked tokens, and ``sampled_accuracy``, the share of
    them whose original it drew. Where there are replacements, ``replaced``, their share of all tokens but padding.
    """
    metrics: dict[str, Tensor] = {}
    mlm = proposal.mlm
    if mlm is not None:
        metrics |= prediction_metrics(mlm.loss, mlm.is_top1, batch, masked, ("mlm_loss", "mlm_accuracy"))
        # A slot without a draw holds -1 and an unused one has the target -100, so neither counts.
        metrics["sampled_accuracy"] = ratio((mlm.tokens == batch.masked.targets).sum(), batch.targets)
    if proposal.replaced is not None:
        metrics["replaced"] = ratio(proposal.replaced.is_replaced.sum(), batch.tokens.attention_mask.sum())
    return metrics


class ReplacedTokenDetection(GeneratorObjective):
    """ELECTRA (Clark et al. 2020, section 2). Options: those of `GeneratorObjective`."""

    name = "replaced_tokens"
    labels = "every token"
    detects = "which words do not fit, also real words in the wrong place"
    cannot_detect = "which word would be right; replacements as plausible as the original"
    metrics = ("mlm_loss", "mlm_accuracy", "sampled_accuracy", "replaced", "rtd_loss", "recall")
    model: Electra

    def __init__(self, config: ElectraConfig, text: TextFacts, **options: Any) -> None:
        super().__init__(config, text, **options)
        self.model = Electra(config, text.counts, starts_word=text.starts_word)

    @property
    def encoder(self) -> Encoder:
        return self.model.discriminator.encoder

    @property
    def _proposer(self) -> Proposer:
        return self.model

    def forward(
        self, batch: MaskedBatch, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        masked, judged = self.denominators(batch, counts)
        output = joint_step(self.model, batch, self.replacements(progress), masked, judged)
        metrics = proposal_metrics(output, batch, masked)
        if output.rtd is not None:
            metrics |= detection_metrics(output.rtd, judged)
        return output.loss, metrics


def joint_step(
    model: Electra,
    batch: MaskedBatch,
    replacements: str | None = "generator",
    masked: Tensor | None = None,
    judged: Tensor | None = None,
) -> ElectraOutput:
    """Run ``model`` on a batch that is masked already; ``masked`` and ``judged`` are the denominators of its losses."""
    tokens = batch.tokens
    output: ElectraOutput = model(
        tokens.input_ids,
        tokens.attention_mask,
        tokens.maskable,
        segments=tokens.segments,
        masked=batch.masked,
        sampling_uniforms=batch.sampling_uniforms,
        replacements=replacements,
        unigram_rows=batch.unigram_rows,
        mlm_normalizer=masked,
        rtd_normalizer=judged,
    )
    return output


class ReplacedTokenDetectionMasked(ReplacedTokenDetection):
    """Classifies the masked positions only: "ELECTRA 15%" of Clark et al. 2020, section 3.4.

    The discriminator's loss is the mean over the masked tokens; all other tokens give no signal. Its weight is still
    ``rtd_weight``, because a mean over fewer tokens has the same size.
    """

    name = "replaced_tokens_masked"
    labels = "15 % of the tokens"
    detects = "whether a word at a place that it is asked about fits"
    cannot_detect = "which word would be right; 85 % of the tokens give no signal"

    def forward(
        self, batch: MaskedBatch, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        masked, _ = self.denominators(batch, counts)
        proposal = self.propose(batch, progress, masked)
        _, mlm, replaced = proposal
        metrics = proposal_metrics(proposal, batch, masked)
        if mlm is not None and replaced is None:
            return mlm.loss, metrics
        assert replaced is not None
        discriminator, tokens = self.model.discriminator, batch.tokens
        positions, targets = batch.masked.positions, batch.masked.targets
        hidden = discriminator.encoder(replaced.input_ids, tokens.attention_mask, segments=tokens.segments)
        rtd = discriminator.head(
            discriminator.transform(gather_rows(hidden, positions)),
            replaced.is_replaced.gather(1, positions),
            targets >= 0,
            normalizer=masked,
        )
        loss = rtd.loss if mlm is None else mlm.loss + self.config.rtd_weight * rtd.loss
        return loss, metrics | detection_metrics(rtd, masked)


def without_generator(config: ElectraConfig) -> ElectraConfig:
    """The configuration with draws from a fixed distribution in place of a model as generator."""
    return replace(config, generator=None, generator_kind="unigram", tie="none")


class FixedGenerator(Objective):
    """Replaced-token detection with replacements drawn from one distribution, whatever their context.

    A subclass gives the distribution by `shares`. The loss is the discriminator's alone.
    """

    per = "token"
    labels = "every token"
    metrics = ("replaced", "rtd_loss", "recall")
    masks = True
    model: Electra

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.model = Electra(without_generator(config), self.shares(text), starts_word=text.starts_word)

    @staticmethod
    def shares(text: TextFacts) -> Tensor:
        """[V], the probability of each token up to a common factor; 0 for special tokens."""
        raise NotImplementedError

    @property
    def encoder(self) -> Encoder:
        return self.model.discriminator.encoder

    def batch(self, tokens: TokenBatch, seed: int) -> MaskedBatch:
        return masked_batch(self.model.mask, tokens, self.config.mask_probability, seed)

    def counts(self, batch: MaskedBatch) -> Tensor:
        """[1]: all tokens but padding."""
        return batch.tokens.attention_mask.sum()[None]

    def forward(
        self, batch: MaskedBatch, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        (judged,) = self.denominators(batch, counts)
        output = joint_step(self.model, batch, judged=judged)
        assert output.rtd is not None
        return output.loss, detection_metrics(output.rtd, judged)


class UniformGenerator(FixedGenerator):
    """Draws every token with the same probability, but never a special token: it could be found without reading."""

    name = "uniform_generator"
    detects = "which words are out of place; most replacements by their rarity alone"
    cannot_detect = "which word would be right; frequent words in the wrong place, which it hardly ever sees"

    @staticmethod
    def shares(text: TextFacts) -> Tensor:
        return torch.ones(len(text.counts)).index_fill(0, torch.tensor(astuple(text.special_ids)), 0.0)


class UnigramGenerator(FixedGenerator):
    """Draws tokens by their frequency in the text, so that only the context can give a replacement away."""

    name = "unigram_generator"
    detects = "which words are out of place"
    cannot_detect = "which word would be right; replacements more plausible than a random word"

    @staticmethod
    def shares(text: TextFacts) -> Tensor:
        return text.counts
