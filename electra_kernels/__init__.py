"""Fused kernels for training Transformer encoders as per-token classifiers, as drop-in torch ops."""

from importlib import import_module
from types import ModuleType

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
    vocab_parallel_cross_entropy_sample,
    vocab_parallel_linear_cross_entropy_sample,
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
    "vocab_parallel_cross_entropy_sample",
    "vocab_parallel_linear_cross_entropy_sample",
]


def __getattr__(name: str) -> ModuleType:
    """``electra_kernels.nn`` without an import of its own; it is loaded at its first use."""
    if name == "nn":
        return import_module("electra_kernels.nn")
    raise AttributeError(f"module 'electra_kernels' has no attribute {name!r}")
