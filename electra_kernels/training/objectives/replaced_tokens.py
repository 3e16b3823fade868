"""Replaced-token detection: a generator fills masked positions, a discriminator finds the tokens that it changed.

The generator is a trained model (ELECTRA, Clark et al. 2020) or a fixed distribution over the vocabulary.
"""

from dataclasses import astuple, replace
from typing import Any

import torch
from torch import Tensor

from electra_kernels import gather_rows
from electra_kernels.data.facts import TextFacts
from electra_kernels.models import Electra, ElectraConfig, ElectraOutput, Encoder, Proposal
from electra_kernels.training.objectives.base import Objective, TokenBatch
from electra_kernels.training.objectives.detection import detection_metrics


class GeneratorObjective(Objective):
    """A generator, trained beside the encoder, fills the masks of 15 % of the tokens.

    Args:
        config, text: as `Objective`.
        head_start: share of the training before the generator's own samples are used.
        head_start_replacements: source of the replacements until then: "unigram" (word frequencies) or None (no
            replacements: the generator learns alone).
    """

    per = "token"

    def __init__(
        self,
        config: ElectraConfig,
        text: TextFacts,
        *,
        head_start: float = 0.0,
        head_start_replacements: str | None = None,
    ) -> None:
        super().__init__(config, text)
        self.head_start, self.head_start_replacements = head_start, head_start_replacements

    def replacements(self, progress: float) -> str | None:
        """The source of the replacements at this point of the training: "generator", "unigram" or None."""
        return self.head_start_replacements if progress < self.head_start else "generator"


def proposal_metrics(proposal: Proposal | ElectraOutput, batch: TokenBatch) -> dict[str, Tensor]:
    """``mlm_loss`` and ``mlm_accuracy`` where the generator is a model, ``replaced`` where there are replacements.

    ``replaced`` is the share of all tokens but padding.
    """
    metrics = {}
    if proposal.mlm is not None:
        metrics["mlm_loss"] = proposal.mlm.loss.detach()
        predicted = (proposal.masked.targets >= 0).sum().clamp(min=1)
        metrics["mlm_accuracy"] = proposal.mlm.is_top1.sum() / predicted
    if proposal.replaced is not None:
        metrics["replaced"] = proposal.replaced.is_replaced.sum() / batch.attention_mask.sum().clamp(min=1)
    return metrics


class ReplacedTokenDetection(GeneratorObjective):
    """ELECTRA (Clark et al. 2020, section 2). Options: the head start of `GeneratorObjective`."""

    name = "replaced_tokens"
    labels = "every token"
    detects = "which words do not fit, also real words in the wrong place"
    cannot_detect = "which word would be right; replacements as plausible as the original"
    metrics = ("mlm_loss", "mlm_accuracy", "replaced", "rtd_loss", "recall")
    model: Electra

    def __init__(self, config: ElectraConfig, text: TextFacts, **options: Any) -> None:
        super().__init__(config, text, **options)
        self.model = Electra(config, text.counts)

    @property
    def encoder(self) -> Encoder:
        return self.model.discriminator.encoder

    def forward(self, batch: TokenBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        parts = (batch.input_ids, batch.attention_mask, batch.maskable)
        output = self.model(*parts, replacements=self.replacements(progress))
        metrics = proposal_metrics(output, batch)
        if output.rtd is not None:
            metrics |= detection_metrics(output.rtd)
        return output.loss, metrics


class ReplacedTokenDetectionMasked(ReplacedTokenDetection):
    """Classifies the masked positions only: "ELECTRA 15%" of Clark et al. 2020, section 3.4.

    The discriminator's loss is the mean over the masked tokens; all other tokens give no signal. Its weight is still
    ``rtd_weight``, because a mean over fewer tokens has the same size.
    """

    name = "replaced_tokens_masked"
    labels = "15 % of the tokens"
    detects = "whether a word at a place that it is asked about fits"
    cannot_detect = "which word would be right; 85 % of the tokens give no signal"

    def forward(self, batch: TokenBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        proposal = self.model.propose(
            batch.input_ids,
            batch.attention_mask,
            batch.maskable,
            replacements=self.replacements(progress),
        )
        masked, mlm, replaced = proposal
        metrics = proposal_metrics(proposal, batch)
        if mlm is not None and replaced is None:
            return mlm.loss, metrics
        assert replaced is not None
        discriminator = self.model.discriminator
        hidden = gather_rows(
            discriminator.encoder(replaced.input_ids, batch.attention_mask), masked.positions
        )
        labels = replaced.is_replaced.gather(1, masked.positions)
        rtd = discriminator.head(discriminator.transform(hidden), labels, masked.targets >= 0)
        loss = rtd.loss if mlm is None else mlm.loss + self.config.rtd_weight * rtd.loss
        return loss, metrics | detection_metrics(rtd)


class FixedGenerator(Objective):
    """Replaced-token detection with replacements drawn from one distribution, whatever their context.

    A subclass gives the distribution by `shares`. The loss is the discriminator's alone.
    """

    per = "token"
    labels = "every token"
    metrics = ("replaced", "rtd_loss", "recall")
    model: Electra

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        fixed = replace(config, generator=None, generator_kind="unigram", tie="none")
        self.model = Electra(fixed, self.shares(text))

    @staticmethod
    def shares(text: TextFacts) -> Tensor:
        """[V], the probability of each token up to a common factor; 0 for special tokens."""
        raise NotImplementedError

    @property
    def encoder(self) -> Encoder:
        return self.model.discriminator.encoder

    def forward(self, batch: TokenBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.model(batch.input_ids, batch.attention_mask, batch.maskable)
        return output.loss, proposal_metrics(output, batch) | detection_metrics(output.rtd)


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
