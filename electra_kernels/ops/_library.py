"""Registration: each op ``electra_kernels::X`` is opaque to torch and has a router to the back ends on every device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from electra_kernels.backends.registry import implementation
from electra_kernels.backends.table import DEVICES, OPS

_library = torch.library.Library("electra_kernels", "DEF")


def define(name: str, fake: Callable[..., object]) -> None:
    """Declare an op of the table: its schema, its routers, and the fake kernel that gives shapes and dtypes.

    An op with float options also gets the overload ``tensors``, which takes them as 0-dim float64 CPU tensors.
    """
    op = OPS[name]
    _declare(name, op.schema, fake, lambda device: _router(name, device))
    floats = op.float_options
    if floats:
        schema = f"{name}.tensors({op.arguments.replace('float ', 'Tensor ')}) -> {op.returns}"
        # A CUDA graph would replay the kernels with the options that were read when it was captured.
        tags = (torch.Tag.cudagraph_unsafe,)
        _declare(
            f"{name}.tensors", schema, fake, lambda device: _reading(_router(name, device), floats), tags
        )


def _declare(
    name: str,
    schema: str,
    fake: Callable[..., object],
    router: Callable[[str], Callable[..., object]],
    tags: tuple[torch.Tag, ...] = (),
) -> None:
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
    for device in DEVICES:
        _library.impl(name, router(device), device.upper())
    for key in ("FuncTorchBatched", "Batched"):  # torch.vmap and autograd's is_grads_batched
        _library.impl(name, _refuse_vmap(name), key)
    torch.library.register_fake(f"electra_kernels::{name}", fake, lib=_library)


def _router(name: str, device: str) -> Callable[..., object]:
    def route(first: Tensor, *arguments: object) -> object:
        serve = implementation(name, device, first.device.index)
        if not torch.is_autocast_enabled(device):
            return serve(first, *arguments)
        # The public function has applied autocast already; an implementation must not see it.
        with torch.autocast(device, enabled=False):
            return serve(first, *arguments)

    return route


def _reading(route: Callable[..., object], floats: tuple[int, ...]) -> Callable[..., object]:
    """The router of the overload ``tensors``: reads the options, which are on the CPU, and calls the op's router."""

    def read(*arguments: Any) -> object:
        return route(*[value.item() if i in floats else value for i, value in enumerate(arguments)])

    return read


def _refuse_vmap(name: str) -> Callable[..., object]:
    """Without this rule torch would call the op once per row, which costs a launch each."""

    def refuse(*arguments: object) -> object:
        raise RuntimeError(
            f"{public_name(name)} has no rule for vmap: give it the rows as leading dimensions instead, "
            "which it takes as they are"
        )

    return refuse


def public_name(name: str) -> str:
    """Name of the public function that calls an op, its overload, its in-place variant or its gradient."""
    return name.removesuffix(".tensors").removesuffix("_backward").removesuffix("_")


def options(values: tuple[float, ...], defaults: tuple[float, ...]) -> tuple[Any, ...]:
    """The float options of a call in the form that `overload` chooses by: Python floats, or tensors.

    torch.compile takes a Python float for a constant of the graph, so every new value would compile another graph.
    While it traces, a call with a value other than the default passes all of its float options as tensors.
    """
    if not torch.compiler.is_compiling():
        return tuple(map(float, values))
    if values == defaults:
        return defaults
    # torch.full((), value) would keep the value that the graph was captured with.
    return tuple(torch.ones((), dtype=torch.float64, device="cpu") * value for value in values)


def overload(name: str, option: float | Tensor) -> Any:
    """The overload of an op for the form of its float options."""
    op = getattr(torch.ops.electra_kernels, name)
    return op.tensors if isinstance(option, Tensor) else op.default
