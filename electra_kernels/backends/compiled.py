"""The compiled kernels: loads their libraries once, and says which instruction sets this machine can run.

``_cpp.so`` has every instruction-set level, and each of its ops takes the index of the level to run as its last
argument. ``_cuda.so`` chooses the code for the device by itself. Their ops are declared here, with the schemas of
the table; the libraries only register the kernels.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from electra_kernels.backends.build_record import missing
from electra_kernels.backends.implementations import Function, from_library
from electra_kernels.backends.table import ops_of, row_kernels

_PACKAGE = Path(__file__).parents[1]
_declared: list[torch.library.Library] = []  # an op lives as long as the Library object that declared it


class NotAvailableError(Exception):
    """The message says why there are no compiled kernels here."""


def implementations() -> dict[str, dict[str, Function]]:
    """Level → implementations of the ops on the CPU, best level first.

    Raises:
        NotAvailableError: the library was not built, or cannot be loaded.
    """
    ops = _load_built("cpp", level=True)
    names: list[str] = []
    while name := ops.supported_level(len(names)):
        names.append(name)
    return {names[level]: from_library(ops, level) for level in reversed(range(len(names)))}


def cuda_implementations() -> dict[str, Function]:
    """Implementations of the ops on CUDA devices.

    Raises:
        NotAvailableError: there is no CUDA device, or the library was not built, or cannot be loaded.
    """
    if torch.version.cuda is None:
        raise NotAvailableError("this torch is built without CUDA")
    if torch.cuda.device_count() == 0:  # unlike is_available, it leaves processes able to fork
        raise NotAvailableError("torch finds no CUDA device")
    return from_library(_load_built("cuda"))


def _load_built(name: str, *, level: bool = False) -> Any:
    library = f"_{name}"
    reason = missing().get(library)
    if reason is not None:
        raise NotAvailableError(f"electra_kernels.{library} is not built: {reason}")
    try:
        return load(f"electra_kernels_{name}", _PACKAGE / f"{library}.so", level=level)
    except OSError as error:
        raise NotAvailableError(f"electra_kernels.{library} was built, but not for here: {error}") from error


def load(namespace: str, path: Path, *, level: bool = False) -> Any:
    """``torch.ops.<namespace>`` with the kernels of a library; with ``level``, each takes an instruction set last.

    Raises:
        OSError: the library cannot be loaded.
    """
    _declare(namespace, level)
    torch.ops.load_library(str(path))
    return getattr(torch.ops, namespace)


@cache
def _declare(namespace: str, level: bool) -> None:
    library = torch.library.Library(namespace, "DEF")
    backend = "cpp" if level else "cuda"
    schemas = [op.schema for op in ops_of(backend).values() if op.idea != "linear_head"]
    schemas += [name + schema for name, schema in row_kernels(backend).items()]
    for schema in schemas:
        library.define(schema.replace(") -> ", ", int level) -> ", 1) if level else schema)
    if level:
        library.define("supported_level(int index) -> str")
    _declared.append(library)
