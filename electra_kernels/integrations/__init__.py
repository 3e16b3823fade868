"""Replaced-token detection with Hugging Face transformers (install the extra ``transformers``). See README.md."""

from electra_kernels.integrations.configuration import ReplacedTokenDetectionConfig
from electra_kernels.integrations.drop_in import fuse_electra_loss, fuse_masked_lm_loss, unfuse
from electra_kernels.integrations.replaced_token_detection import (
    ReplacedTokenDetection,
    ReplacedTokenDetectionOutput,
)
from electra_kernels.integrations.trainer import DataCollatorForReplacedTokens, compute_metrics

__all__ = [
    "DataCollatorForReplacedTokens",
    "ReplacedTokenDetection",
    "ReplacedTokenDetectionConfig",
    "ReplacedTokenDetectionOutput",
    "compute_metrics",
    "fuse_electra_loss",
    "fuse_masked_lm_loss",
    "unfuse",
]
