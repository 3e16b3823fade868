"""Triton's interpreter, where it is on, at several times its speed: most of its time went into what no test needs."""

from dataclasses import replace
from typing import Any

from electra_kernels.triton.launch import is_interpreted


def _quicken_the_interpreter() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    patched = set()

    def call_device_function(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The launch has patched triton.language, and restores it; what lies below it (the library of reductions) is
        # patched by the first call and stays so. Triton does both anew at every call.
        names = self.fn.__globals__
        if names["__name__"] not in patched and all(value is not tl for value in names.values()):
            interpreter._patch_lang(self.fn)
            patched.add(names["__name__"])
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call_device_function
    # It computes every integer a second time in 64 bits, for an assertion that is off.
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)


if is_interpreted():
    _quicken_the_interpreter()
