"""Patches for Triton's interpreter, if it is on: they make it faster, and round and exponentiate as GPUs do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from electra_kernels.triton.launch import is_interpreted


def pytest_configure(config: pytest.Config) -> None:
    # numpy warns about NaN and infinities, which the kernels handle.
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton")


def _patch_once() -> None:
    """Stop the interpreter from patching triton.language at every call of a device function, where most time goes.

    The launch has already patched it, and restores it afterwards. Modules that do not import triton.language themselves
    (the library of reductions) are patched at their first call and stay patched.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    patched = set()

    def call_device_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        names = self.fn.__globals__
        if names["__name__"] not in patched and all(value is not tl for value in names.values()):
            interpreter._patch_lang(self.fn)
            patched.add(names["__name__"])
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call_device_function
    # The interpreter computes every integer a second time in 64 bits, for an assertion that is off.
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)


def _round_bfloat16() -> None:
    """Round float32 to the nearest bfloat16. The interpreter truncates, and is wrong for subnormal numbers."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert_any = interpreter._convert_float

    def convert(values: Any, source: Any, destination: Any, rounding_mode: Any) -> Any:
        if (source, destination) == (tl.float32, tl.bfloat16):
            bits = values.view(np.uint32)
            to_nearest = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
            return np.where(np.isnan(values), 0x7FC0, to_nearest).astype(np.uint16)
        if (source, destination) == (tl.bfloat16, tl.float32):
            return values.view(np.uint16).astype(np.uint32) << 16
        return convert_any(values, source, destination, rounding_mode)

    interpreter._convert_float = convert


def _use_ptx_exponentials() -> None:
    """Compute exponentials as compiled kernels do.

    tl.exp2 is ex2.approx.ftz, which flushes denormal results to zero. tl.exp is ex2.approx of x * log2(e), rounded.
    """
    from triton.runtime import interpreter

    def exp2(x: Any) -> Any:
        results = np.exp2(x)
        return np.where(results < np.finfo(np.float32).tiny, np.float32(0), results)

    def exp(x: Any) -> Any:
        return np.exp2(x * np.float32(np.log2(np.e)))

    builder = interpreter.InterpreterBuilder
    builder.create_exp2 = lambda self, arg: self.unary_op(arg, exp2)
    builder.create_exp = lambda self, arg: self.unary_op(arg, exp)


if is_interpreted():
    _patch_once()
    _round_bfloat16()
    _use_ptx_exponentials()
