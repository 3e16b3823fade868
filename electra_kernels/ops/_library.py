"""Registration: the public op ``electra_kernels::X`` is opaque to torch and holds one router per device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    DispatchKeySet,
    _after_autograd_keyset,
    _any_requires_grad,
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
)
from torch.autograd import forward_ad
from torch.autograd.function import FunctionCtx

from electra_kernels.routing import DEVICES, current_choice, implementation, use_backend

_library = torch.library.Library("electra_kernels", "DEF")
_float_options: dict[str, tuple[int, ...]] = {}  # op -> positions of its float options


def define(schema: str, fake: Callable[..., object]) -> None:
    """Declare an op once: its schema, its routers, and the fake kernel that says shapes and dtypes.

    An op with float options gets the overload ``tensors``, in which they are 0-dim float64 CPU tensors: `option`.
    """
    name, _, rest = schema.partition("(")
    arguments = rest.partition(") ->")[0].split(", ")
    floats = tuple(i for i, argument in enumerate(arguments) if argument.startswith("float "))
    _float_options[name] = floats
    _declare(name, schema, fake, lambda device: _router(name, device), ())
    if floats:
        overload = f"{name}.tensors({rest.replace('float ', 'Tensor ')}"
        # A CUDA graph would replay the kernels with the options that were read when it was captured.
        tags = (torch.Tag.cudagraph_unsafe,)
        _declare(
            f"{name}.tensors", overload, fake, lambda device: _reading(_router(name, device), floats), tags
        )


def _declare(
    name: str,
    schema: str,
    fake: Callable[..., object],
    router: Callable[[str], Callable[..., object]],
    tags: tuple[torch.Tag, ...],
) -> None:
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
    for device in DEVICES:
        _library.impl(name, router(device), device.upper())
    for key in ("FuncTorchBatched", "Batched"):  # torch.vmap and autograd's is_grads_batched
        _library.impl(name, _refuse_vmap(name), key)
    torch.library.register_fake(f"electra_kernels::{name}", fake, lib=_library)


def _reading(route: Callable[..., object], floats: tuple[int, ...]) -> Callable[..., object]:
    """The overload ``tensors``: reads the options, which are on the CPU, and goes on as the op does."""

    def read(*args: Any) -> object:
        return route(*[value.item() if i in floats else value for i, value in enumerate(args)])

    return read


def option(value: float, default: float) -> float | Tensor:
    """A float option in the form that `call` takes.

    In a graph of torch.compile a float is a constant of the graph, so each value would compile another graph. A value
    that is not the default becomes a tensor there. ``torch.full((), value)`` would keep an old value.
    """
    if not torch.compiler.is_compiling():
        return float(value)
    return default if value == default else torch.ones((), dtype=torch.float64, device="cpu") * value


def call(name: str, *arguments: Any) -> Any:
    """Call an op, or its overload ``tensors`` if one of its float options is a tensor."""
    op, floats = getattr(torch.ops.electra_kernels, name), _float_options[name]
    if not any(isinstance(arguments[i], Tensor) for i in floats):
        return op.default(*arguments)
    ones = torch.ones((), dtype=torch.float64, device="cpu")
    return op.tensors(*[ones * value if i in floats else value for i, value in enumerate(arguments)])


def _router(name: str, device: str) -> Callable[..., object]:
    def route(first: Tensor, *args: object) -> object:
        serve = implementation(name, device, first.device.index)
        if not torch.is_autocast_enabled(device):
            return serve(first, *args)
        # Autocast has been dealt with by the public function; it must not reach into an implementation.
        with torch.autocast(device, enabled=False):
            return serve(first, *args)

    return route


def _refuse_vmap(name: str) -> Callable[..., object]:
    """Without a rule of its own torch would call the op once per row, at the price of a call each."""

    def refuse(*args: object) -> object:
        raise RuntimeError(
            f"{public_name(name)} has no rule for vmap: give it the rows as leading dimensions instead, "
            "which it takes as they are"
        )

    return refuse


def refuse_transforms(name: str) -> None:
    """Under torch.func.grad, jvp and the like, and in forward mode, which would take the result for a constant."""
    if _are_functorch_transforms_active() or forward_ad._current_level >= 0:
        raise RuntimeError(
            f"{public_name(name)} has a gradient in reverse mode alone, by backward() or torch.autograd.grad: "
            "torch.func and forward mode cannot differentiate it"
        )


def public_name(name: str) -> str:
    """The function that a user has called, of the op that serves it or its gradient."""
    return name.removesuffix(".tensors").removesuffix("_backward").removesuffix("_")


def served_by(backend: str | None) -> AbstractContextManager[None]:
    """In a backward, the back end of its forward: autograd's threads for CUDA do not know the choice."""
    return nullcontext() if backend is None else use_backend(backend)


def differentiable(
    name: str, *, save: Callable[..., None], backward: Callable[..., tuple[object, ...]]
) -> None:
    """Give an op its gradient. ``save(ctx, inputs, output)`` marks what has none and keeps what it needs.

    It is registered as ``torch.library.register_autograd`` does it, without its pass over the schema in every call,
    which takes as long as the kernel of a small batch.
    """
    for overload in ("default", "tensors") if _float_options[name] else ("default",):
        _differentiable(getattr(getattr(torch.ops.electra_kernels, name), overload), save, backward)


def _differentiable(op: Any, save: Callable[..., None], backward: Callable[..., tuple[object, ...]]) -> None:
    inputs = len(op._schema.arguments)
    name = op._schema.name.partition("::")[2] + (
        "" if op._overloadname == "default" else f".{op._overloadname}"
    )

    def below_autograd(keyset: DispatchKeySet, arguments: tuple[object, ...]) -> Any:
        with _AutoDispatchBelowAutograd():
            return op.redispatch(keyset & _after_autograd_keyset, *arguments)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keyset: DispatchKeySet, *arguments: object) -> Any:
            output = below_autograd(keyset, arguments)
            ctx.backend = current_choice()
            ctx.set_materialize_grads(False)
            save(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: object) -> tuple[object, ...]:
            if grads[0] is None:  # nobody has asked for the gradient of the output that has one
                return (None,) * (1 + inputs)
            with served_by(ctx.backend):
                return None, *backward(ctx, *grads)

    def run(keyset: DispatchKeySet, *arguments: object) -> object:
        refuse_transforms(name)
        if torch.is_grad_enabled() and _any_requires_grad(*arguments):
            return Differentiable.apply(keyset, *arguments)
        return below_autograd(keyset, arguments)

    Differentiable.__name__ = Differentiable.__qualname__ = name
    _library.impl(name, run, "Autograd", with_keyset=True)


def refuse_double_backward(name: str) -> None:
    """A gradient op whose own gradient is asked for says so, instead of being silently constant."""

    def refuse(ctx: FunctionCtx, *grads: object) -> tuple[object, ...]:
        raise RuntimeError(
            f"{public_name(name)} cannot be differentiated twice: its gradient has no gradient"
        )

    differentiable(name, save=lambda ctx, inputs, output: None, backward=refuse)
