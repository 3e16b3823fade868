"""The compiled kernels: loads their libraries, once, and says what this machine can run of them.

``_cpp.so`` holds every instruction-set level; each of its ops takes the index of the level to run as its last
argument. ``_cuda.so`` picks the code for the device by itself. To add an op, register ``electra_kernels_cpp::X`` in
csrc/cpu and ``electra_kernels_cuda::X`` in csrc/cuda (see the kernels.h there) and name it in `_OPS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from electra_kernels import reference
from electra_kernels._build_info import missing
from electra_kernels.reference import mlm_head
from electra_kernels.reference._values import check_values
from electra_kernels.reference.chunks import RowKernels

_OPS = (
    "sample_tokens",
    "sample_tokens_backward",
    "cross_entropy_sample",
    "cross_entropy_sample_backward",
    "cross_entropy_sample_",
    "scale_gradient_",
    "replace_tokens",
    "sample_replacements",
    "mask_tokens",
    "masked_bce_with_logits",
    "masked_bce_with_logits_backward",
    "linear_masked_bce",
    "linear_masked_bce_backward",
)

_FOLDER = Path(__file__).parent


class NotAvailableError(Exception):
    """The message says why there are no compiled kernels here."""


def implementations() -> dict[str, dict[str, Callable[..., object]]]:
    """Level → implementations of the ops on the CPU, best level first.

    Raises:
        NotAvailableError: the library was not built, or cannot be loaded.
    """
    _load("_cpp")
    ops = torch.ops.electra_kernels_cpp
    names: list[str] = []
    while name := ops.supported_level(len(names)):
        names.append(name)
    return {names[level]: serving(ops, level) for level in reversed(range(len(names)))}


def cuda_implementations() -> dict[str, Callable[..., object]]:
    """Implementations of the ops on CUDA devices.

    Raises:
        NotAvailableError: there is no CUDA device, or the library was not built, or cannot be loaded.
    """
    if torch.version.cuda is None:
        raise NotAvailableError("this torch is built without CUDA")
    if torch.cuda.device_count() == 0:  # unlike is_available, it leaves processes able to fork
        raise NotAvailableError("torch finds no CUDA device")
    _load("_cuda")
    return serving(torch.ops.electra_kernels_cuda)


def _load(name: str) -> None:
    reason = missing().get(name)
    if reason is not None:
        raise NotAvailableError(f"electra_kernels.{name} is not built: {reason}")
    try:
        torch.ops.load_library(str(_FOLDER / f"{name}.so"))
    except OSError as error:
        raise NotAvailableError(f"electra_kernels.{name} was built, but not for here: {error}") from error


def serving(ops: Any, *level: int) -> dict[str, Callable[..., object]]:
    """Implementations by the ops of one library, each called with the ``level`` last if there is one."""
    # A library that was built from older sources serves what it has.
    kernels = {name: getattr(ops, name).default for name in _OPS if hasattr(ops, name)}
    if level:
        served = {name: _naming_refusals(name, kernel, level) for name, kernel in kernels.items()}
    else:
        served = {name: reference.checked(name, kernel) for name, kernel in kernels.items()}
    if hasattr(ops, "cross_entropy_rows_backward_"):
        loops = (mlm_head.linear_cross_entropy_sample, mlm_head.linear_cross_entropy_sample_backward)
        chunked = {loop.__name__: _chunked(loop, ops, level) for loop in loops}
        served |= {name: reference.checked(name, loop) for name, loop in chunked.items()}
    return {name: reference.double_is_the_reference(name, run) for name, run in served.items()}


def _chunked(loop: Callable[..., object], ops: Any, level: tuple[int, ...]) -> Callable[..., object]:
    """The loop over chunks is the specification's; between its GEMMs runs the row kernel of the library."""
    visit, gradient = ops.cross_entropy_rows_.default, ops.cross_entropy_rows_backward_.default
    rows = RowKernels(
        lambda *arguments: visit(*arguments, *level), lambda *arguments: gradient(*arguments, *level)
    )
    return lambda *arguments: loop(*arguments, rows)


def _naming_refusals(
    name: str, kernel: Callable[..., object], level: tuple[int, ...]
) -> Callable[..., object]:
    """The CPU kernels look at values as they go, which is cheaper than to read them first in Python; they refuse them
    before they overwrite anything. `check_values` then says which value it was. Any other failure stays as it is."""

    def run(*arguments: Any) -> object:
        try:
            return kernel(*arguments, *level)
        except RuntimeError:
            check_values(name, arguments)
            raise

    return run
