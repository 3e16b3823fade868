"""Implementations of the ops from the functions of a back end, each guarded by the value check of its op.

float64 calls go to the reference: they are for gradcheck, and kernels support float32 and smaller dtypes only.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch

from electra_kernels.backends import linear_head
from electra_kernels.backends.linear_head import RowKernels
from electra_kernels.backends.table import ADDS_BIAS, Op, ops_of, row_kernels
from electra_kernels.backends.value_checks import reads_values

Function = Callable[..., Any]
Implementations = Mapping[str, Function]
# The functions of this idea are the same in every back end, except for the row kernels.
_LINEAR_HEAD = "linear_head"
# Beside the ops: the function that returns the row kernels for a dtype.
ROWS = "row_kernels"


def from_package(backend: str) -> dict[str, Function]:
    """Implementations by op name, from the package of a back end with a module per idea: "reference" or "triton"."""
    found = {name: guarded(op, _function(op, backend)) for name, op in ops_of(backend).items()}
    return {**found, ROWS: _rows_by_dtype(_rows_of_package(backend))}


def from_library(ops: Any, level: int | None = None) -> dict[str, Function]:
    """Implementations by op name, from the ops of a compiled library.

    Args:
        ops: ``torch.ops.electra_kernels_cpp`` or ``torch.ops.electra_kernels_cuda``.
        level: for the CPU library, the index of an instruction set, which its kernels take as their last argument.
    """
    backend, keywords = ("cuda", {}) if level is None else ("cpp", {"level": level})
    rows = _row_kernels(backend, lambda name: partial(getattr(ops, name).default, **keywords))
    found: dict[str, Function] = {ROWS: _rows_by_dtype(rows)}
    for name, op in ops_of(backend).items():
        if op.idea == _LINEAR_HEAD:
            found[name] = guarded(op, _linear_head(op, rows))
        elif level is None:
            found[name] = guarded(op, getattr(ops, name).default)
        else:
            found[name] = checking_itself(op, getattr(ops, name).default, level)
    return found


def guarded(op: Op, function: Function) -> Function:
    """``function`` after the op's value check; the reference instead in float64."""
    check, position, specification = op.check, op.compute_position, _specification(op)

    def run(*arguments: Any) -> object:
        if check is not None and reads_values(arguments[0]):
            check(*arguments)
        if position is not None and arguments[position].dtype == torch.float64:
            return specification(*arguments)
        return function(*arguments)

    return run


def checking_itself(op: Op, kernel: Function, level: int) -> Function:
    """A CPU kernel, which checks values while it reads them, and before it overwrites anything.

    This is cheaper than a check in advance. If the kernel refuses a value, the op's check names it in an error; any
    other failure is raised as it is, and nothing is computed a second time.
    """
    check, position, in_float64 = op.check, op.compute_position, guarded(op, _specification(op))

    def run(*arguments: Any) -> object:
        if position is not None and arguments[position].dtype == torch.float64:
            return in_float64(*arguments)
        try:
            return kernel(*arguments, level)
        except RuntimeError:
            if check is not None:
                check(*arguments)
            raise

    return run


def _specification(op: Op) -> Function:
    return _function(op, "reference")


def _function(op: Op, backend: str) -> Function:
    """The function of a back end that is a package."""
    if op.idea == _LINEAR_HEAD:
        return _linear_head(op, _rows_of_package(backend))
    function: Function = getattr(import_module(f"electra_kernels.{backend}.{op.idea}"), op.name)
    return function


def _row_kernels(backend: str, find: Callable[[str], Function]) -> RowKernels:
    forward, backward, loss, sums = map(find, row_kernels(backend))
    return RowKernels(forward, backward, loss, sums, backend in ADDS_BIAS)


def _rows_of_package(backend: str) -> RowKernels:
    def find(name: str) -> Function:
        idea = "vocab_parallel" if name == "row_sums" else "mlm_head"
        function: Function = getattr(import_module(f"electra_kernels.{backend}.{idea}"), name)
        return function

    return _row_kernels(backend, find)


def _rows_by_dtype(rows: RowKernels) -> Function:
    reference = _rows_of_package("reference")
    return lambda dtype: reference if dtype == torch.float64 else rows


def _linear_head(op: Op, rows: RowKernels) -> Function:
    return partial(getattr(linear_head, op.name), rows)
