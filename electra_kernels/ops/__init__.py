"""The public ops, one file per idea: arguments and their checks, fake kernel and gradient."""

from electra_kernels.ops._flops import register_flop_formulas
from electra_kernels.ops._results import MaskedTokens, ReplacedTokens, SampledLoss, TokenLoss
from electra_kernels.ops.bce import masked_bce_with_logits
from electra_kernels.ops.masking import mask_tokens
from electra_kernels.ops.mlm_head import cross_entropy_sample, linear_cross_entropy_sample
from electra_kernels.ops.replacing import gather_rows, replace_tokens, sample_replacements
from electra_kernels.ops.rtd_head import linear_masked_bce
from electra_kernels.ops.sampling import sample_tokens
from electra_kernels.ops.vocab_parallel import (
    vocab_parallel_cross_entropy_sample,
    vocab_parallel_linear_cross_entropy_sample,
)

__all__ = [
    "MaskedTokens",
    "ReplacedTokens",
    "SampledLoss",
    "TokenLoss",
    "cross_entropy_sample",
    "gather_rows",
    "linear_cross_entropy_sample",
    "linear_masked_bce",
    "mask_tokens",
    "masked_bce_with_logits",
    "replace_tokens",
    "sample_replacements",
    "sample_tokens",
    "vocab_parallel_cross_entropy_sample",
    "vocab_parallel_linear_cross_entropy_sample",
]

register_flop_formulas()
