"""Registration: the public op ``electra_kernels::X`` is opaque to torch and holds one router per device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
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


def define(schema: str, fake: Callable[..., object]) -> None:
    """Declare an op once: its schema, its routers, and the fake kernel that says shapes and dtypes."""
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device in DEVICES:
        _library.impl(name, _router(name, device), device.upper())
    for key in ("FuncTorchBatched", "Batched"):  # torch.vmap and autograd's is_grads_batched
        _library.impl(name, _refuse_vmap(name), key)
    torch.library.register_fake(f"electra_kernels::{name}", fake, lib=_library)


def _router(name: str, device: str) -> Callable[..., object]:
    def route(*args: object) -> object:
        if not torch.is_autocast_enabled(device):
            return implementation(name, device)(*args)
        # Autocast has been dealt with by the public function; it must not reach into an implementation.
        with torch.autocast(device, enabled=False):
            return implementation(name, device)(*args)

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
    return name.removesuffix("_backward").removesuffix("_")


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
    op = getattr(torch.ops.electra_kernels, name).default
    inputs = len(op._schema.arguments)

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
