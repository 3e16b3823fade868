"""What `replace_mlm` and `all_tokens_mlm` share: a generator's replacements, whose originals the encoder predicts."""

from typing import Any

from torch import Tensor

from electra_kernels.models import ElectraConfig, Encoder, Generator, Proposal, Proposer
from electra_kernels.training.objectives.base import TextFacts, TokenBatch
from electra_kernels.training.objectives.proposed import Proposed, proposal_metrics


class Restored(Proposed):
    """Loss: the generator's, plus `restoration_loss` of a subclass. Options: the head start of `Proposed`.

    The head that predicts is of the generator's kind and tied to the encoder's word embedding, as the generator's.
    Both losses are cross-entropies over the vocabulary, and a picked token weighs the same in both: the paper gives
    no weight, and 50 is one for a loss of a tenth of that size.
    """

    model: Generator

    def __init__(self, config: ElectraConfig, text: TextFacts, **options: Any) -> None:
        super().__init__(config, text, **options)
        self.model = Generator(Encoder(config.discriminator))
        self.proposer = Proposer(config, self.model.encoder, text.counts)

    def forward(self, batch: TokenBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        proposal = self.proposer.propose(
            batch.input_ids,
            batch.attention_mask,
            batch.maskable,
            replacements=self.replacements(progress),
        )
        metrics = proposal_metrics(proposal, batch)
        if proposal.mlm is not None and proposal.replaced is None:
            return proposal.mlm.loss, metrics
        loss, more = self.restoration_loss(proposal, batch)
        return loss if proposal.mlm is None else proposal.mlm.loss + loss, metrics | more

    def restoration_loss(self, proposal: Proposal, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss [] of the encoder on ``proposal.replaced``, and its metrics."""
        raise NotImplementedError
