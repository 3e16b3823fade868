"""Every token's original predicted, with a copy mechanism: "All-Tokens MLM" of Clark et al. 2020, section 3.4."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from electra_kernels.models import ElectraConfig, Proposal
from electra_kernels.models.encoder import linear
from electra_kernels.training.objectives.base import TextFacts, TokenBatch
from electra_kernels.training.objectives.restored import Restored


class AllTokensMLM(Restored):
    """p(original) = D [input is the original] + (1 - D) softmax(original), at every token that is no padding.

    D is a sigmoid of a linear layer on the encoder's state. The loss is the mean of -log p over these tokens (those
    that the discriminator of `replaced_tokens` is asked about, special ones included), divided by the share of
    tokens picked: so a picked token weighs as much as in the generator's loss and in `replace_mlm`.
    """

    name = "all_tokens_mlm"
    labels = "every token"
    detects = "which words do not fit, and which word would be right"
    cannot_detect = "replacements as plausible as the original"
    metrics = ("mlm_loss", "mlm_accuracy", "replaced", "restoration_loss", "copied")

    def __init__(self, config: ElectraConfig, text: TextFacts, **options: Any) -> None:
        super().__init__(config, text, **options)
        self.copy = linear(config.discriminator.hidden_size, 1, config.discriminator.initializer_range)

    def restoration_loss(self, proposal: Proposal, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        replaced = proposal.replaced
        assert replaced is not None
        hidden = self.model.encoder(replaced.input_ids, batch.attention_mask)
        targets = batch.input_ids.masked_fill(~batch.attention_mask, -100)
        word = self.model.head(self.model.transform(hidden), targets, reduction="none").loss
        copy = self.copy(hidden).squeeze(-1).float()
        losses = copy_loss(copy, word, replaced.is_replaced)
        tokens = batch.attention_mask.sum().clamp(min=1)
        mean = losses.where(batch.attention_mask, 0).sum() / tokens
        copied = copy.detach().sigmoid().where(batch.attention_mask, 0).sum() / tokens
        return mean / self.config.mask_probability, {"restoration_loss": mean.detach(), "copied": copied}


def copy_loss(copy: Tensor, word: Tensor, is_replaced: Tensor) -> Tensor:
    """-log p of each token, where p is the mixture above; in logarithms, so that no probability underflows.

    Args:
        copy: [...], the logit of D.
        word: [...], -log softmax(original).
        is_replaced: [...] bool: the input is not the original, which copying cannot give.
    """
    by_copy = F.logsigmoid(copy).masked_fill(is_replaced, -torch.inf)
    return -torch.logaddexp(by_copy, F.logsigmoid(-copy) - word)
