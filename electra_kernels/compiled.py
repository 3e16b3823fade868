"""The compiled CPU kernels: loads their library, once, and says which instruction-set levels this machine has.

The library holds every level; each op takes the index of the level to run as its last argument. To add an op,
register ``electra_kernels_cpp::X`` in csrc/cpu (see csrc/cpu/kernels.h) and name it in `_OPS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from electra_kernels import reference
from electra_kernels._build_info import build_info
from electra_kernels.reference import mlm_head
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

_LIBRARY = Path(__file__).parent / "_cpp.so"


class NotAvailableError(Exception):
    """The message says why there are no compiled kernels here."""


def implementations() -> dict[str, dict[str, Callable[..., object]]]:
    """Level → implementations of the ops, best level first.

    Raises:
        NotAvailableError: the library was not built, or cannot be loaded.
    """
    build = build_info()
    if not build["built"]:
        raise NotAvailableError(f"electra_kernels._C is not built: {build['reason']}")
    if "cpp" in build["missing"]:
        raise NotAvailableError(f"electra_kernels._cpp is not built: {build['missing']['cpp']}")
    try:
        torch.ops.load_library(str(_LIBRARY))
    except OSError as error:
        raise NotAvailableError(f"electra_kernels._cpp was built, but not for here: {error}") from error
    names: list[str] = []
    while name := torch.ops.electra_kernels_cpp.supported_level(len(names)):
        names.append(name)
    return {names[level]: _level(level) for level in reversed(range(len(names)))}


def _level(level: int) -> dict[str, Callable[..., object]]:
    ops = torch.ops.electra_kernels_cpp
    # A library that was built from older sources serves what it has.
    served = {name: _implementation(name, level) for name in _OPS if hasattr(ops, name)}
    if hasattr(ops, "cross_entropy_rows_backward_"):
        loops = (mlm_head.linear_cross_entropy_sample, mlm_head.linear_cross_entropy_sample_backward)
        served |= {loop.__name__: _chunked(loop, level) for loop in loops}
    return {name: reference.double_is_the_reference(name, run) for name, run in served.items()}


def _chunked(loop: Callable[..., object], level: int) -> Callable[..., object]:
    """The loop over chunks is the specification's; between its GEMMs runs the row kernel of the level."""
    ops = torch.ops.electra_kernels_cpp
    visit, gradient = ops.cross_entropy_rows_.default, ops.cross_entropy_rows_backward_.default
    rows = RowKernels(
        lambda *arguments: visit(*arguments, level), lambda *arguments: gradient(*arguments, level)
    )
    return lambda *arguments: loop(*arguments, rows)


def _implementation(name: str, level: int) -> Callable[..., object]:
    kernel = getattr(torch.ops.electra_kernels_cpp, name).default
    specification = reference.IMPLEMENTATIONS[name]

    def run(*arguments: Any) -> object:
        try:
            return kernel(*arguments, level)
        except RuntimeError:
            # A kernel that refuses a value has written nothing yet; the specification has the words for it.
            specification(*arguments)
            raise

    return run
