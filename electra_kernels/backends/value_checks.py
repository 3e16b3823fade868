"""Checks that have to read a tensor: always on the CPU, on other devices only under ELECTRA_KERNELS_DEBUG=1.

There is one check per op, named after it, with the arguments of its schema. It raises a ValueError that names the
first value out of range. A check writes nothing, so it may also run after a kernel has failed.
"""

import os

import torch
from torch import Tensor

from electra_kernels.reference.common import ignored_labels

# The debug switch is read here and nowhere else.
_DEBUG = os.environ.get("ELECTRA_KERNELS_DEBUG") == "1"


def reads_values(tensor: Tensor) -> bool:
    """Whether values on the tensor's device are checked: reading them on a GPU waits for the device."""
    return tensor.device.type == "cpu" or _DEBUG


def _require(valid: Tensor, name: str, values: Tensor, expected: str) -> None:
    """Raise a ValueError that names the first element of ``values`` at which ``valid`` is False."""
    if bool(valid.all()):
        return
    index = (~valid).nonzero()[0].tolist()
    location = f"[{', '.join(map(str, index))}]" if index else ""
    raise ValueError(f"{name}{location} is {values[tuple(index)].item()}, should be {expected}")


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


def _require_slots(positions: Tensor, used: Tensor, length: int) -> None:
    """Slots in use have positions in [0, length), no two the same in a row."""
    _require(~used | ((positions >= 0) & (positions < length)), "positions", positions, f"in [0, {length})")
    columns = positions.where(used, length)  # unused slots share a column of their own
    slots = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
    winner = columns.new_zeros(columns.shape[0], length + 1).scatter(1, columns, slots)
    distinct = ~used | (winner.gather(1, columns) == slots)
    _require(distinct, "positions", positions, "used once per row, but another slot of the row has it too")


def mask_tokens(
    input_ids: Tensor, maskable: Tensor, uniforms: Tensor, mask_token_id: int, vocab_size: int, *_: object
) -> None:
    _require((input_ids >= 0) & (input_ids < vocab_size), "input_ids", input_ids, f"in [0, {vocab_size})")
    _require_unit_interval(uniforms)


def sample_tokens(logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float) -> None:
    _require_unit_interval(uniforms)
    if banned is not None:
        size = logits.shape[-1]
        _require(banned < size, "banned", banned, f"below {size} (negative bans nothing)")


def replace_tokens(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> None:
    _require_slots(positions, tokens >= 0, input_ids.shape[1])


def sample_replacements(
    logits: Tensor, input_ids: Tensor, positions: Tensor, targets: Tensor, uniforms: Tensor, *_: object
) -> None:
    size = logits.shape[-1]
    _require_unit_interval(uniforms)
    _require(targets < size, "targets", targets, f"below {size} (negative: unused slot)")
    _require_slots(positions, targets >= 0, input_ids.shape[1])


def require_rows(
    targets: Tensor, uniforms: Tensor, normalizer: Tensor | None, ignore_index: int, vocab_size: int
) -> None:
    valid = (targets == ignore_index) | ((targets >= 0) & (targets < vocab_size))
    _require(valid, "targets", targets, f"in [0, {vocab_size}) or ignore_index ({ignore_index})")
    _require_unit_interval(uniforms)
    _require_normalizer(normalizer)


def cross_entropy_sample(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    *_: object,
) -> None:
    require_rows(targets, uniforms, normalizer, ignore_index, logits.shape[-1])


def linear_cross_entropy_sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    *_: object,
) -> None:
    require_rows(targets, uniforms, normalizer, ignore_index, weight.shape[0])


def masked_bce_with_logits(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    pos_weight: Tensor | None,
    normalizer: Tensor | None,
    *_: object,
) -> None:
    _require_labels(labels, mask)
    _require_normalizer(normalizer)


def linear_masked_bce(
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
