"""A masked language model that sees a generator's words instead of [MASK]: "Replace MLM" of Clark et al. 2020, 3.4."""

from torch import Tensor

from electra_kernels import MaskedTokens
from electra_kernels.models import Proposal
from electra_kernels.training.objectives.base import TokenBatch
from electra_kernels.training.objectives.restored import Restored


class ReplaceMLM(Restored):
    """Predicts the original at the picked 15 %, whether the generator's word there differs from it or not."""

    name = "replace_mlm"
    labels = "15 % of the tokens"
    detects = "which word would be right at a place that it is asked about"
    cannot_detect = "which places to ask about; 85 % of the tokens give no signal"
    metrics = ("mlm_loss", "mlm_accuracy", "replaced", "restoration_loss", "restoration_accuracy")

    def restoration_loss(self, proposal: Proposal, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        masked, _, replaced = proposal
        assert replaced is not None
        restored = self.model(
            MaskedTokens(replaced.input_ids, masked.positions, masked.targets), batch.attention_mask
        )
        accuracy = restored.is_top1.sum() / (masked.targets >= 0).sum().clamp(min=1)
        return restored.loss, {
            "restoration_loss": restored.loss.detach(),
            "restoration_accuracy": accuracy,
        }
