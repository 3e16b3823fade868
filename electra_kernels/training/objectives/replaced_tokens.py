"""Replaced-token detection: the generator fills masks, the discriminator finds what is not original, per token."""

from typing import Any

from torch import Tensor

from electra_kernels.models import Electra, ElectraConfig, Encoder
from electra_kernels.training.objectives.base import TextFacts, TokenBatch
from electra_kernels.training.objectives.detection import detection_metrics
from electra_kernels.training.objectives.proposed import Proposed, proposal_metrics


class ReplacedTokenDetection(Proposed):
    """ELECTRA (Clark et al. 2020, section 2). Options: the head start of `Proposed`."""

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
