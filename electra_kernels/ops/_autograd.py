"""The gradient of an op: an `autograd.Function` around the opaque op, and the same formula for raw ``torch.ops`` calls.

In eager mode a public function calls the Function, which a debugger can step through, and which refuses forward mode
and the transforms of torch.func, because the ops have no rule for them. While torch.compile or torch.export trace, it
calls the opaque op, whose registered gradient is the same formula: dynamo would take the body of a Function apart, and
strict export would lose the gradient.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import FunctionCtx

from electra_kernels.backends.registry import current_choice, use_backend
from electra_kernels.backends.table import OPS
from electra_kernels.ops._library import _library, public_name

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def not_compiled(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a function a graph break, as `torch.compiler.disable` does, which would import the compiler at once."""

    @wraps(function)
    def run(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        if not torch.compiler.is_compiling():
            return function(*arguments, **keywords)
        run_eagerly: Callable[Arguments, Result] = torch.compiler.disable(function)
        return run_eagerly(*arguments, **keywords)

    return run


def needs_autograd(*inputs: Tensor | None) -> bool:
    """Whether a call goes through its Function: an input needs a gradient, or is a dual number, which it refuses.

    Without a gradient the opaque op is called at once, which saves a third of the time of a small call.
    """
    enabled = torch.is_grad_enabled()
    for value in inputs:
        if value is None:
            continue
        if (enabled and value.requires_grad) or forward_ad.unpack_dual(value).tangent is not None:
            return not torch.compiler.is_compiling()
    return False


def save_backend(ctx: Any) -> None:
    """Remember the choice of `use_backend` for the backward, and ask for None where an output has no gradient."""
    ctx.backend = current_choice()
    ctx.set_materialize_grads(False)


def same_backend(ctx: Any, *grads: Tensor | None) -> AbstractContextManager[None]:
    """Run a backward on the back end of its forward; autograd's threads for CUDA do not know the choice.

    Raises:
        RuntimeError: the upstream gradient is a dual number, whose tangent would be lost.
    """
    if any(grad is not None and forward_ad.unpack_dual(grad).tangent is not None for grad in grads):
        raise RuntimeError(
            "the upstream gradient is a dual number: the gradient of this op has no forward mode"
        )
    return nullcontext() if ctx.backend is None else use_backend(ctx.backend)


def register_gradient(name: str, function: Any) -> None:
    """Give raw calls of an op the gradient of its Function, and let the gradient op refuse a second derivative.

    Args:
        function: has the static methods ``save(ctx, inputs, output)`` and ``backward(ctx, *grads)``.
    """
    for overload in _overloads(name):
        torch.library.register_autograd(
            overload, function.backward, setup_context=function.save, lib=_library
        )
    for overload in _overloads(f"{name}_backward"):
        torch.library.register_autograd(overload, _refusal(name), setup_context=_save_nothing, lib=_library)


def _overloads(name: str) -> list[str]:
    tensors = [f"electra_kernels::{name}.tensors"] if OPS[name].float_options else []
    return [f"electra_kernels::{name}", *tensors]


def _save_nothing(ctx: FunctionCtx, inputs: tuple[object, ...], output: object) -> None:
    pass


def _refusal(name: str) -> Any:
    def refuse(ctx: FunctionCtx, *grads: object) -> object:
        raise RuntimeError(
            f"{public_name(name)} cannot be differentiated twice: its gradient has no gradient"
        )

    return refuse
