"""Objectives that predict the original words: behind masks (BERT) or behind a generator's replacements."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from electra_kernels import ReplacedTokens
from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.facts import TextFacts
from electra_kernels.models import ElectraConfig, Encoder, Generator, Proposer
from electra_kernels.models.layers import linear
from electra_kernels.training.objectives.base import Objective, ratio
from electra_kernels.training.objectives.masked_batch import MaskedBatch, masked_batch, prediction_metrics
from electra_kernels.training.objectives.replaced_tokens import (
    GeneratorObjective,
    proposal_metrics,
    without_generator,
)


class MaskedLanguageModel(Objective):
    """Masks 15 % of the tokens and predicts them (Devlin et al. 2019).

    The masking is that of ELECTRA's generator: [MASK] with probability 0.85, else the token stays. BERT's 80 / 10 /
    10 has random words as well; with the same masking, the loss is the only difference from `replaced_tokens`.
    """

    name = "masked_lm"
    per = "token"
    labels = "15 % of the tokens"
    detects = "which word fits a gap"
    cannot_detect = "whether a word that is there is wrong; 85 % of the tokens give no signal"
    metrics: tuple[str, str] = ("mlm_loss", "mlm_accuracy")
    masks = True
    shares_vocabulary = True
    model: Generator

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.model = Generator(Encoder(config.discriminator))
        self.proposer = Proposer(  # it masks
            without_generator(config), self.model.encoder, text.counts, starts_word=text.starts_word
        )

    def batch(self, tokens: TokenBatch, seed: int) -> MaskedBatch:
        return masked_batch(self.proposer.mask, tokens, self.config.mask_probability, seed)

    def counts(self, batch: MaskedBatch) -> Tensor:
        """[1]: masked tokens."""
        return batch.targets[None]

    def forward(
        self, batch: MaskedBatch, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        (count,) = self.denominators(batch, counts)
        tokens = batch.tokens
        # The head draws a token for each mask. The numbers keep it away from torch's global generator.
        mlm = self.model(
            batch.masked,
            tokens.attention_mask,
            segments=tokens.segments,
            normalizer=count,
            uniforms=batch.sampling_uniforms,
        )
        return mlm.loss, prediction_metrics(mlm.loss, mlm.is_top1, batch, count, self.metrics)


class RestorationObjective(GeneratorObjective):
    """Predicts the originals behind a generator's replacements. Options: the head start of `GeneratorObjective`.

    The loss is the generator's plus the `restoration_loss` of a subclass. Like the generator's, the head that predicts
    is tied to the encoder's word embedding. Both losses are cross-entropies over the vocabulary, and a picked token
    weighs the same in both: the paper gives no weight, and ELECTRA's 50 is for a loss of a tenth of that size.
    """

    model: Generator

    def __init__(self, config: ElectraConfig, text: TextFacts, **options: Any) -> None:
        super().__init__(config, text, **options)
        self.model = Generator(Encoder(config.discriminator))
        self.proposer = Proposer(config, self.model.encoder, text.counts, starts_word=text.starts_word)

    @property
    def _proposer(self) -> Proposer:
        return self.proposer

    def forward(
        self, batch: MaskedBatch, progress: float, counts: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        masked, tokens = self.denominators(batch, counts)
        proposal = self.propose(batch, progress, masked)
        metrics = proposal_metrics(proposal, batch, masked)
        if proposal.mlm is not None and proposal.replaced is None:
            return proposal.mlm.loss, metrics
        assert proposal.replaced is not None
        loss, more = self.restoration_loss(proposal.replaced, batch, masked, tokens)
        return loss if proposal.mlm is None else proposal.mlm.loss + loss, metrics | more

    def restoration_loss(
        self, replaced: ReplacedTokens, batch: MaskedBatch, masked: Tensor, tokens: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The encoder's part of the loss [] on ``replaced``, and its metrics.

        ``masked`` and ``tokens`` [] are the counts of `GeneratorObjective.counts` in the whole batch.
        """
        raise NotImplementedError


class ReplaceMLM(RestorationObjective):
    """Predicts the original at the picked 15 %, whether it was replaced or not.

    A masked language model that sees a generator's words instead of [MASK]: "Replace MLM" of Clark et al. 2020,
    section 3.4.
    """

    name = "replace_mlm"
    labels = "15 % of the tokens"
    detects = "which word would be right at a place that it is asked about"
    cannot_detect = "which places to ask about; 85 % of the tokens give no signal"
    metrics = (
        "mlm_loss",
        "mlm_accuracy",
        "sampled_accuracy",
        "replaced",
        "restoration_loss",
        "restoration_accuracy",
    )

    def restoration_loss(
        self, replaced: ReplacedTokens, batch: MaskedBatch, masked: Tensor, tokens: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        restored = self.model(
            batch.masked._replace(input_ids=replaced.input_ids),
            batch.tokens.attention_mask,
            segments=batch.tokens.segments,
            normalizer=masked,
            uniforms=batch.sampling_uniforms,
        )
        names = "restoration_loss", "restoration_accuracy"
        return restored.loss, prediction_metrics(restored.loss, restored.is_top1, batch, masked, names)


class AllTokensMLM(RestorationObjective):
    """Predicts every original with a copy mechanism: "All-Tokens MLM" of Clark et al. 2020, section 3.4.

    p(original) = D [input is the original] + (1 - D) softmax(original), at every token but padding. D is a sigmoid of
    a linear layer on the encoder's state. The loss is the mean of -log p over these tokens, special ones included (the
    tokens that the discriminator of `replaced_tokens` classifies), divided by the share of picked tokens. So a picked
    token weighs as much as in the generator's loss and in `replace_mlm`.
    """

    name = "all_tokens_mlm"
    labels = "every token"
    detects = "which words do not fit, and which word would be right"
    cannot_detect = "replacements as plausible as the original"
    metrics = ("mlm_loss", "mlm_accuracy", "sampled_accuracy", "replaced", "restoration_loss", "copied")
    shares_vocabulary = False  # it needs the loss of each token

    def __init__(self, config: ElectraConfig, text: TextFacts, **options: Any) -> None:
        super().__init__(config, text, **options)
        self.copy = linear(config.discriminator.hidden_size, 1, config.discriminator.initializer_range)

    def restoration_loss(
        self, replaced: ReplacedTokens, batch: MaskedBatch, masked: Tensor, tokens: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        input_ids, attention_mask = batch.tokens.input_ids, batch.tokens.attention_mask
        hidden = self.model.encoder(replaced.input_ids, attention_mask, segments=batch.tokens.segments)
        targets = input_ids.masked_fill(~attention_mask, -100)
        # Only the head's losses are used. Fixed uniforms keep its draws away from torch's global generator.
        uniforms = torch.zeros(targets.shape, dtype=torch.float64, device=targets.device)
        states = self.model.transform(hidden)
        word = self.model.head(states, targets, reduction="none", uniforms=uniforms).loss
        copy = self.copy(hidden).squeeze(-1).float()
        total = copy_loss(copy, word, replaced.is_replaced).where(attention_mask, 0).sum()
        copied = copy.detach().sigmoid().where(attention_mask, 0).sum()
        return total / tokens / self.config.mask_probability, {
            "restoration_loss": ratio(total, attention_mask.sum()),
            "copied": ratio(copied, attention_mask.sum()),
        }


def copy_loss(copy: Tensor, word: Tensor, is_replaced: Tensor) -> Tensor:
    """-log p of each token for the mixture of `AllTokensMLM`, in logarithms so that no probability underflows.

    Args:
        copy: [...], the logit of D.
        word: [...], -log softmax(original).
        is_replaced: [...] bool, true where the input is not the original, so that copying cannot restore it.
    """
    by_copy = F.logsigmoid(copy).masked_fill(is_replaced, -torch.inf)
    return -torch.logaddexp(by_copy, F.logsigmoid(-copy) - word)
