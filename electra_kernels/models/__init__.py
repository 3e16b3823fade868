"""The reference ELECTRA: configurations, encoder, and generator and discriminator with their joint step."""

from electra_kernels.models.config import CONFIGURATIONS, ElectraConfig, EncoderConfig, electra_config
from electra_kernels.models.electra import Discriminator, Electra, ElectraOutput, Generator
from electra_kernels.models.encoder import Embeddings, Encoder

__all__ = [
    "CONFIGURATIONS",
    "Discriminator",
    "Electra",
    "ElectraConfig",
    "ElectraOutput",
    "Embeddings",
    "Encoder",
    "EncoderConfig",
    "Generator",
    "electra_config",
]
