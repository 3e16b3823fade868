"""Replaced-token detection that asks about the filled masks alone: "ELECTRA 15%" of Clark et al. 2020, section 3.4."""

from torch import Tensor

from electra_kernels import gather_rows
from electra_kernels.training.objectives.base import TokenBatch
from electra_kernels.training.objectives.detection import detection_metrics
from electra_kernels.training.objectives.proposed import proposal_metrics
from electra_kernels.training.objectives.replaced_tokens import ReplacedTokenDetection


class ReplacedTokenDetectionMasked(ReplacedTokenDetection):
    """The discriminator's loss is the mean over the tokens that were masked; those left alone give no signal.

    The weight of that loss stays ``rtd_weight``: a mean over fewer tokens is of the same size.
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
