"""Checks that have to read a tensor: always on the CPU, elsewhere only under ELECTRA_KERNELS_DEBUG=1."""

import os

import torch
from torch import Tensor

_DEBUG = os.environ.get("ELECTRA_KERNELS_DEBUG") == "1"


def reads_values(tensor: Tensor) -> bool:
    """Whether a tensor's values are to be checked. On a GPU that would wait for the device, so there they are only
    where it is asked for."""
    return tensor.device.type == "cpu" or _DEBUG


def require(valid: Tensor, name: str, values: Tensor, expected: str) -> None:
    """Raise a ValueError that names the first element of ``values`` at which ``valid`` is False, if `reads_values`."""
    if not reads_values(values):
        return
    if bool(valid.all()):
        return
    index = (~valid).nonzero()[0].tolist()
    value = values[tuple(index)].item()
    raise ValueError(f"{name}[{', '.join(map(str, index))}] is {value}, should be {expected}")


def require_unit_interval(uniforms: Tensor) -> None:
    require((uniforms >= 0) & (uniforms < 1), "uniforms", uniforms, "in [0, 1)")


def require_targets(targets: Tensor, vocab_size: int, ignore_index: int) -> None:
    valid = (targets == ignore_index) | ((targets >= 0) & (targets < vocab_size))
    require(valid, "targets", targets, f"in [0, {vocab_size}) or ignore_index ({ignore_index})")


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays float64 (for gradcheck), everything else is accumulated in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
