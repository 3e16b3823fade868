"""What `uniform_generator` and `unigram_generator` share: ELECTRA whose generator is a distribution, not a model."""

from dataclasses import replace

from torch import Tensor

from electra_kernels.models import Electra, ElectraConfig, Encoder
from electra_kernels.training.objectives.base import Objective, TextFacts, TokenBatch
from electra_kernels.training.objectives.detection import detection_metrics
from electra_kernels.training.objectives.proposed import proposal_metrics


class FixedGenerator(Objective):
    """Replaced-token detection with replacements drawn from one distribution, whatever stands around them.

    `shares` of a subclass gives the distribution. The loss is the discriminator's alone.
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
        """[V], how often each token is drawn, up to a factor; 0 for special tokens."""
        raise NotImplementedError

    @property
    def encoder(self) -> Encoder:
        return self.model.discriminator.encoder

    def forward(self, batch: TokenBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.model(batch.input_ids, batch.attention_mask, batch.maskable)
        return output.loss, proposal_metrics(output, batch) | detection_metrics(output.rtd)
