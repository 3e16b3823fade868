"""Checks that have to read a tensor: always on the CPU, elsewhere only under ELECTRA_KERNELS_DEBUG=1.

`check_values` has one check per op. It reads arguments and computes nothing, so it may follow a kernel that failed.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor

IGNORED_LABEL = -100
_DEBUG = os.environ.get("ELECTRA_KERNELS_DEBUG") == "1"


def check_values(op: str, arguments: tuple[object, ...]) -> None:
    """Raise a ValueError that names the first value out of range among the arguments of an op, if there is one.

    On a GPU this waits for the device, so there it happens under ELECTRA_KERNELS_DEBUG=1 only.
    """
    check, first = _CHECKS.get(op), arguments[0]
    assert isinstance(first, Tensor)
    if check is not None and (first.device.type == "cpu" or _DEBUG):
        check(*arguments)


def _require(valid: Tensor, name: str, values: Tensor, expected: str) -> None:
    """Raise a ValueError that names the first element of ``values`` at which ``valid`` is False."""
    if bool(valid.all()):
        return
    index = (~valid).nonzero()[0].tolist()
    place = f"[{', '.join(map(str, index))}]" if index else ""
    raise ValueError(f"{name}{place} is {values[tuple(index)].item()}, should be {expected}")


def _require_unit_interval(uniforms: Tensor) -> None:
    _require((uniforms >= 0) & (uniforms < 1), "uniforms", uniforms, "in [0, 1)")


def _require_normalizer(normalizer: Tensor | None) -> None:
    if normalizer is not None:
        valid = (normalizer > 0) & (normalizer < torch.inf)
        _require(valid, "normalizer", normalizer, "a positive, finite number")


def _require_labels(labels: Tensor, mask: Tensor | None) -> None:
    if labels.dtype == torch.bool:
        return
    skipped = torch.zeros_like(labels, dtype=torch.bool) if mask is None else mask == 0
    if labels.is_floating_point():
        _require((labels >= 0) & (labels <= 1) | skipped, "labels", labels, "in [0, 1]")
        return
    valid = (labels == 0) | (labels == 1) | ignored_labels(labels) | skipped
    expected = "0, 1 or -100 (ignored)" if labels.dtype.is_signed else f"0 or 1: {labels.dtype} has no -100"
    _require(valid, "labels", labels, expected)


def ignored_labels(labels: Tensor) -> Tensor:
    """Where a label of an integer type is -100. An unsigned type has no such number, and 156 is not it."""
    if not labels.dtype.is_signed:
        return torch.zeros_like(labels, dtype=torch.bool)
    return labels == IGNORED_LABEL


def _require_slots(positions: Tensor, used: Tensor, length: int) -> None:
    """Slots in use have positions in [0, length), no two the same in a row."""
    _require(~used | ((positions >= 0) & (positions < length)), "positions", positions, f"in [0, {length})")
    columns = positions.where(used, length)  # unused slots share a column of their own
    slots = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
    winner = columns.new_zeros(columns.shape[0], length + 1).scatter(1, columns, slots)
    distinct = ~used | (winner.gather(1, columns) == slots)
    _require(distinct, "positions", positions, "used once per row, but another slot of the row has it too")


def _mask_tokens(
    input_ids: Tensor, maskable: Tensor, uniforms: Tensor, mask_token_id: int, vocab_size: int, *_: object
) -> None:
    _require((input_ids >= 0) & (input_ids < vocab_size), "input_ids", input_ids, f"in [0, {vocab_size})")
    _require_unit_interval(uniforms)


def _sample_tokens(logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float) -> None:
    _require_unit_interval(uniforms)
    if banned is not None:
        size = logits.shape[-1]
        _require(banned < size, "banned", banned, f"below {size} (negative bans nothing)")


def _replace_tokens(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> None:
    _require_slots(positions, tokens >= 0, input_ids.shape[1])


def _sample_replacements(
    logits: Tensor, input_ids: Tensor, positions: Tensor, targets: Tensor, uniforms: Tensor, *_: object
) -> None:
    size = logits.shape[-1]
    _require_unit_interval(uniforms)
    _require(targets < size, "targets", targets, f"below {size} (negative: unused slot)")
    _require_slots(positions, targets >= 0, input_ids.shape[1])


def _require_rows(
    targets: Tensor, uniforms: Tensor, normalizer: Tensor | None, ignore_index: int, vocab_size: int
) -> None:
    valid = (targets == ignore_index) | ((targets >= 0) & (targets < vocab_size))
    _require(valid, "targets", targets, f"in [0, {vocab_size}) or ignore_index ({ignore_index})")
    _require_unit_interval(uniforms)
    _require_normalizer(normalizer)


def _cross_entropy_sample(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    *_: object,
) -> None:
    _require_rows(targets, uniforms, normalizer, ignore_index, logits.shape[-1])


def _linear_cross_entropy_sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    *_: object,
) -> None:
    _require_rows(targets, uniforms, normalizer, ignore_index, weight.shape[0])


def _masked_bce_with_logits(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    normalizer: Tensor | None,
    *_: object,
) -> None:
    _require_labels(labels, mask)
    _require_normalizer(normalizer)


def _linear_masked_bce(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    normalizer: Tensor | None,
    *_: object,
) -> None:
    _require_labels(labels, mask)
    _require_normalizer(normalizer)


# Op -> check, which takes the arguments of the op's schema.
_CHECKS: dict[str, Callable[..., None]] = {
    "mask_tokens": _mask_tokens,
    "sample_tokens": _sample_tokens,
    "replace_tokens": _replace_tokens,
    "sample_replacements": _sample_replacements,
    "cross_entropy_sample": _cross_entropy_sample,
    "cross_entropy_sample_": _cross_entropy_sample,
    "linear_cross_entropy_sample": _linear_cross_entropy_sample,
    "masked_bce_with_logits": _masked_bce_with_logits,
    "linear_masked_bce": _linear_masked_bce,
}


def as_flags(tensor: Tensor) -> Tensor:
    """A bool tensor whose bytes are 0 and 1. Torch can make one with other bytes, which count as they are."""
    return tensor.view(torch.uint8) != 0


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays float64 (for gradcheck), everything else is accumulated in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
