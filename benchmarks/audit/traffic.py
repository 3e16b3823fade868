"""Bytes that each kernel asks for, counted in Triton's interpreter:
``TRITON_INTERPRET=1 python -m benchmarks.audit.traffic``.

Every load and store of a program is seen with its mask. Elements that one instruction touches more than once count
once, elements that another instruction or program touches again count again: whether the cache has them is not known
here. What a compiler may add are spills, which `assembly` counts.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.audit.cases import Case, few_rows
from benchmarks.audit.launches import Launch, instead_of_run
from electra_kernels import triton
from electra_kernels.triton import launch

_MULTIPROCESSORS, _CACHE = 1, 1 << 20
# What a program reads once for many elements, as a row's log-sum-exp and the scale.
_TOLERANCE = 1.01


class _Counter:
    """Bytes by kernel and argument of the launches that pass through it."""

    def __init__(self) -> None:
        self.bytes: dict[str, dict[str, int]] = {}
        self._kernel: dict[str, int] = {}
        self._ranges: list[tuple[str, int, int]] = []
        self._run = launch.run

    def __call__(self, given: Launch) -> None:
        self._kernel = self.bytes.setdefault(given.name, {})
        self._ranges = [
            (name, tensor.data_ptr(), tensor.data_ptr() + _extent(tensor))
            for name, tensor in given.tensors.items()
        ]
        self._run(
            given.kernel, given.programs, *given.arguments, num_warps=given.num_warps, **given.constants
        )

    def count(self, pointers: np.ndarray, mask: np.ndarray, itemsize: int) -> None:
        touched = np.unique(pointers[mask])
        if touched.size == 0:
            return
        # The last of them, since logits that become their gradient are two arguments in one place.
        name = [name for name, start, end in self._ranges if start <= touched[0] < end][-1]
        self._kernel[name] = self._kernel.get(name, 0) + touched.size * itemsize


def _extent(tensor: Any) -> int:
    return sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride())) * tensor.itemsize + 128


@contextmanager
def _counting(counter: _Counter) -> Iterator[None]:
    from triton.runtime.interpreter import InterpreterBuilder

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def counted_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        counter.count(pointers.data, mask.data, pointers.get_element_ty().primitive_bitwidth // 8 or 1)
        return load(self, pointers, mask, *rest, **named)

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        counter.count(pointers.data, mask.data, pointers.get_element_ty().primitive_bitwidth // 8 or 1)
        return store(self, pointers, value, mask, *rest, **named)

    with (
        mock.patch.object(InterpreterBuilder, "create_masked_load", counted_load),
        mock.patch.object(InterpreterBuilder, "create_masked_store", counted_store),
        instead_of_run(counter, _MULTIPROCESSORS, _CACHE),
    ):
        yield


def count(case: Case) -> dict[str, Any]:
    """Bytes by kernel and argument, and how many times the least that is, what is cached aside."""
    counter = _Counter()
    with _counting(counter):
        case.run(triton.implementations())
    asked = sum(
        size for kernel in counter.bytes.values() for name, size in kernel.items() if name not in case.cached
    )
    return {
        "op": case.op,
        "sizes": case.sizes,
        "dtype": case.dtype_name,
        "least_bytes": case.least,
        "asked_bytes": asked,
        "allowed_bytes": round(_TOLERANCE * (case.least + case.again)),
        "times_least": round(asked / case.least, 4),
        "by_kernel": counter.bytes,
    }


def counted() -> list[dict[str, Any]]:
    """All cases of `few_rows`, by a process of its own: the interpreter holds for a whole process."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    output = subprocess.run(
        [sys.executable, "-m", __name__], env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    cases: list[dict[str, Any]] = json.loads(output)
    return cases


if __name__ == "__main__":
    json.dump([count(case) for case in few_rows()], sys.stdout)
