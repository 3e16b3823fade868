"""Replaced-token detection: the generator fills masks, the discriminator finds what is not original, per token."""

from torch import Tensor

from electra_kernels.models import Electra
from electra_kernels.pretraining.objectives.base import Objective, TokenBatch


class ReplacedTokenDetection(Objective):
    """ELECTRA (Clark et al. 2020, section 2), with a head start for the generator.

    Args:
        model: generator and discriminator.
        head_start: share of the run before the generator's own samples are used.
        head_start_replacements: "unigram" or None: what the discriminator is trained on until then.
    """

    metrics = ("mlm_loss", "mlm_accuracy", "rtd_loss", "replaced")

    def __init__(
        self, model: Electra, *, head_start: float = 0.0, head_start_replacements: str | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.head_start, self.head_start_replacements = head_start, head_start_replacements

    def forward(self, batch: TokenBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        starting = progress < self.head_start
        replacements = self.head_start_replacements if starting else "generator"
        output = self.model(*batch, replacements=replacements)
        metrics = {}
        if output.mlm is not None:
            metrics["mlm_loss"] = output.mlm.loss.detach()
            predicted = (output.masked.targets >= 0).sum().clamp(min=1)
            metrics["mlm_accuracy"] = output.mlm.is_top1.sum() / predicted
        if output.rtd is not None:
            metrics["rtd_loss"] = output.rtd.loss.detach()
            metrics["replaced"] = output.replaced.is_replaced.sum() / batch.attention_mask.sum()
        return output.loss, metrics
