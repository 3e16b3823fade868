"""The masked language model (Devlin et al. 2019): which word is behind the mask."""

from torch import Tensor

from electra_kernels import mask_tokens
from electra_kernels.models import ElectraConfig, Encoder, Generator
from electra_kernels.training.objectives.base import Objective, TextFacts, TokenBatch


class MaskedLanguageModel(Objective):
    """Masks 15 % of the tokens and predicts them.

    The masking is that of ELECTRA's generator: [MASK] with probability 0.85, else the token stays. BERT's 80 / 10 /
    10 has random words as well; the same masking leaves the loss as the only difference from `replaced_tokens`.
    """

    name = "masked_lm"
    per = "token"
    labels = "15 % of the tokens"
    detects = "which word fits a gap"
    cannot_detect = "whether a word that is there is wrong; 85 % of the tokens give no signal"
    metrics = ("mlm_loss", "mlm_accuracy")
    model: Generator

    def __init__(self, config: ElectraConfig, text: TextFacts) -> None:
        super().__init__(config, text)
        self.model = Generator(Encoder(config.discriminator))

    def forward(self, batch: TokenBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        masked = mask_tokens(
            batch.input_ids,
            batch.maskable,
            mask_token_id=self.config.mask_token_id,
            vocab_size=self.config.discriminator.vocab_size,
            probability=self.config.mask_probability,
        )
        mlm = self.model(masked, batch.attention_mask)
        accuracy = mlm.is_top1.sum() / (masked.targets >= 0).sum().clamp(min=1)
        return mlm.loss, {"mlm_loss": mlm.loss.detach(), "mlm_accuracy": accuracy}
