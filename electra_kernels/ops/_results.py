"""The named tuples that the ops return."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree


class MaskedTokens(NamedTuple):
    """``input_ids`` [B, T] with masks written; ``positions``, ``targets`` [B, K]; unused slot: 0 and -100."""

    input_ids: Tensor
    positions: Tensor
    targets: Tensor


class ReplacedTokens(NamedTuple):
    """``input_ids`` [B, T] with replacements written; ``is_replaced`` [B, T] bool where they differ."""

    input_ids: Tensor
    is_replaced: Tensor


class SampledLoss(NamedTuple):
    """``loss`` [] or [...]; ``tokens`` [...] int64, -1 where none was drawn; ``is_top1`` [...] bool; ``logsumexp``
    [...] float32.
    """

    loss: Tensor
    tokens: Tensor
    is_top1: Tensor
    logsumexp: Tensor


class TokenLoss(NamedTuple):
    """``loss`` [] or [...]; ``logits`` [...] float32, detached; ``counts`` int64 [4] = tp, fp, fn, tn."""

    loss: Tensor
    logits: Tensor
    counts: Tensor


_RESULTS = (MaskedTokens, ReplacedTokens, SampledLoss, TokenLoss)
# torch.load(weights_only=True) builds only classes that are registered as safe. These hold only tensors.
torch.serialization.add_safe_globals([*_RESULTS])
# torch.export.save needs a serialized name for each named tuple that a program returns.
for _result in _RESULTS:
    _pytree._register_namedtuple(_result, serialized_type_name=f"electra_kernels.{_result.__name__}")
