"""Replaced-token detection with Hugging Face transformers (extra ``transformers``)."""

from electra_kernels.integrations.configuration import ReplacedTokenDetectionConfig
from electra_kernels.integrations.replaced_token_detection import (
    ReplacedTokenDetection,
    ReplacedTokenDetectionOutput,
)

__all__ = ["ReplacedTokenDetection", "ReplacedTokenDetectionConfig", "ReplacedTokenDetectionOutput"]
