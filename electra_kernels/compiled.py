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

# Op → position of the argument that may be float64, which is the reference's alone; None: there is none.
_OPS: dict[str, int | None] = {
    "sample_tokens": 0,
    "sample_tokens_backward": 1,
}

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
    return {name: _implementation(name, double, level) for name, double in _OPS.items()}


def _implementation(name: str, double: int | None, level: int) -> Callable[..., object]:
    kernel = getattr(torch.ops.electra_kernels_cpp, name).default
    specification = reference.IMPLEMENTATIONS[name]

    def run(*arguments: Any) -> object:
        if double is not None and arguments[double].dtype == torch.float64:
            return specification(*arguments)
        try:
            return kernel(*arguments, level)
        except RuntimeError:
            # A kernel that refuses a value has written nothing yet; the specification has the words for it.
            specification(*arguments)
            raise

    return run
