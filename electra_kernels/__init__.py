"""Fused kernels for training Transformer encoders as per-token classifiers, as drop-in torch ops."""

import electra_kernels._interrupt  # noqa: F401 -- first, because the rest takes seconds
from electra_kernels._version import __version__
from electra_kernels.backends.registry import backends, use_backend
from electra_kernels.ops import (
    MaskedTokens,
    ReplacedTokens,
    SampledLoss,
    TokenLoss,
    cross_entropy_sample,
    gather_rows,
    linear_cross_entropy_sample,
    linear_masked_bce,
    mask_tokens,
    masked_bce_with_logits,
    replace_tokens,
    sample_replacements,
    sample_tokens,
)
from electra_kernels.uniforms import draw_uniforms

__all__ = [
    "MaskedTokens",
    "ReplacedTokens",
    "SampledLoss",
    "TokenLoss",
    "__version__",
    "backends",
    "cross_entropy_sample",
    "draw_uniforms",
    "gather_rows",
    "linear_cross_entropy_sample",
    "linear_masked_bce",
    "mask_tokens",
    "masked_bce_with_logits",
    "replace_tokens",
    "sample_replacements",
    "sample_tokens",
    "use_backend",
]
