"""What the objectives share whose replacements a generator proposes: its metrics and its head start."""

from torch import Tensor

from electra_kernels.models import ElectraConfig, ElectraOutput, Proposal
from electra_kernels.training.objectives.base import Objective, TextFacts, TokenBatch


class Proposed(Objective):
    """A generator, trained beside the encoder, fills the masks of 15 % of the tokens.

    Args:
        config, text: as `Objective`.
        head_start: share of the run before the generator's own samples are used.
        head_start_replacements: "unigram" or None: what the encoder is trained on until then (None: nothing, the
            generator learns alone).
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
        """Whose replacements are used at this point of the run: "generator", "unigram" or nobody's."""
        return self.head_start_replacements if progress < self.head_start else "generator"


def proposal_metrics(proposal: Proposal | ElectraOutput, batch: TokenBatch) -> dict[str, Tensor]:
    """``mlm_loss`` and ``mlm_accuracy`` of a generator that is a model, ``replaced`` where there are replacements."""
    metrics = {}
    if proposal.mlm is not None:
        metrics["mlm_loss"] = proposal.mlm.loss.detach()
        predicted = (proposal.masked.targets >= 0).sum().clamp(min=1)
        metrics["mlm_accuracy"] = proposal.mlm.is_top1.sum() / predicted
    if proposal.replaced is not None:
        metrics["replaced"] = proposal.replaced.is_replaced.sum() / batch.attention_mask.sum().clamp(min=1)
    return metrics
