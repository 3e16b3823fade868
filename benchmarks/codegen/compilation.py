"""Compiles a launch for a GPU that is not here, with the types and attributes that Triton would give it there."""

from functools import cache
from typing import Any

import triton

from benchmarks.codegen.launches import Launch

CUDA_CAPABILITIES = (80, 90, 100)
AMD_ARCHITECTURE = "gfx942"


class CannotCompileError(Exception):
    """Nothing can be compiled here; the message is one line that says why."""


@cache
def _triton() -> Any:
    """The parts of Triton that turn arguments into a kernel's signature; they are not public."""
    from electra_kernels.triton.launch import is_interpreted

    if is_interpreted():
        raise CannotCompileError("TRITON_INTERPRET is set, which applies to the whole process: unset it")
    try:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, make_backend
        from triton.runtime.jit import JITFunction, create_function_from_signature, native_specialize_impl
    except ImportError as error:
        raise CannotCompileError(
            f"codegen is written for Triton 3.9, not {triton.__version__}: {error}"
        ) from error
    if not hasattr(JITFunction, "_pack_args"):
        raise CannotCompileError(
            f"codegen is written for Triton 3.9, not {triton.__version__}: no _pack_args"
        )
    del native_specialize_impl  # imported to check that it exists: create_function_from_signature calls it
    return GPUTarget, ASTSource, make_backend, create_function_from_signature


def target_of(architecture: int | str) -> Any:
    """The target for a compute capability times ten, or for the name of an AMD architecture."""
    if isinstance(architecture, str):
        return _triton()[0]("hip", architecture, 64)
    return _triton()[0]("cuda", architecture, 32)


def bind(launch: Launch, target: Any) -> tuple[Any, Any, Any]:
    """Source, options, and the key under which Triton would cache this compilation."""
    _, source_of, make_backend, binder_of = _triton()
    kernel, backend = launch.kernel, make_backend(target)
    # `JITFunction.run` adds the same when it launches.
    options = {"num_warps": launch.num_warps, "enable_fp_fusion": False, "debug": False, **launch.constants}
    if target.backend == "hip":
        options.pop("maxnreg", None)  # only CUDA's compiler takes a register cap
    bound, specialization, rest = binder_of(kernel.signature, kernel.params, backend)(
        *launch.arguments, **options
    )
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, rest
    )
    key = (kernel.fn.__name__, str(specialization), launch.num_warps, target.arch)
    return source_of(kernel, signature, constants, attributes), parsed, key


def compile_launch(launch: Launch, target: Any) -> Any:
    """Triton's CompiledKernel, with all its assembly."""
    source, options, _ = bind(launch, target)
    return triton.compile(source, target=target, options=options.__dict__)
