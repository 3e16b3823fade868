"""The reference ELECTRA: configurations, encoder, the two models and their joint step, conversion of checkpoints."""

from electra_kernels.models.config import ElectraConfig, EncoderConfig
from electra_kernels.models.configurations import CONFIGURATIONS, electra_config
from electra_kernels.models.discriminator import Discriminator
from electra_kernels.models.electra import Electra, ElectraOutput
from electra_kernels.models.encoder import Embeddings, Encoder
from electra_kernels.models.generator import Generator
from electra_kernels.models.interchange import (
    encoder_from_transformers,
    from_transformers,
    save_transformers,
    to_transformers,
)
from electra_kernels.models.proposer import Proposal, Proposer
from electra_kernels.models.transformers_files import Checkpoint, read_checkpoint

__all__ = [
    "CONFIGURATIONS",
    "Checkpoint",
    "Discriminator",
    "Electra",
    "ElectraConfig",
    "ElectraOutput",
    "Embeddings",
    "Encoder",
    "EncoderConfig",
    "Generator",
    "Proposal",
    "Proposer",
    "electra_config",
    "encoder_from_transformers",
    "from_transformers",
    "read_checkpoint",
    "save_transformers",
    "to_transformers",
]
