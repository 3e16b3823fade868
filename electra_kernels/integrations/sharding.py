"""Read weights of modules that FSDP2 (`torch.distributed.fsdp.fully_shard`) has sharded, without calling the modules.

FSDP2 gathers the weights of a sharded module in a hook before its forward and frees them in a hook after it. The fused
losses use the weight of a Linear without calling it, and run the base of a model without calling the model. So they
run as another forward method of these modules, with the same hooks.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

if torch.distributed.is_available():
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
    from torch.distributed.tensor import DTensor

    _SHARDED_MODULES: tuple[type, ...] = (FSDPModule,)
    SHARDED_TENSORS: tuple[type, ...] = (DTensor,)
else:
    _SHARDED_MODULES = SHARDED_TENSORS = ()

_METHOD = "_run_as_forward"


def is_sharded(module: nn.Module) -> bool:
    """Whether ``fully_shard`` was called on this module; not on one around it."""
    return isinstance(module, _SHARDED_MODULES)


def is_hook_of_fsdp(hook: Callable[..., Any]) -> bool:
    return getattr(hook, "__module__", "").startswith("torch.distributed.fsdp")


def run_as_forward(modules: Sequence[nn.Module], function: Callable[[Tensor], Any], inputs: Tensor) -> Any:
    """Return ``function(inputs)``, computed while the sharded ones among the modules have whole weights.

    Only ``inputs`` is cast by a `MixedPrecisionPolicy`: bind other tensors to the function.

    Args:
        modules: from the outermost to the innermost; those that are not sharded do not matter.
        function: returns tensors. In the backward pass, the weights are whole again once a gradient reaches one.
        inputs: its argument.
    """
    for module in reversed(modules):
        if is_sharded(module):
            function = partial(_forward_method(module), function)
    return function(inputs)


def modules_on_path(root: nn.Module, path: str) -> list[nn.Module]:
    """The modules from ``root`` to its descendant ``path``, both included."""
    modules = [root]
    for name in path.split("."):
        modules.append(modules[-1].get_submodule(name))
    return modules


def _forward_method(module: nn.Module) -> Callable[..., Any]:
    if _METHOD not in module.__dict__:
        module.__dict__[_METHOD] = _call
        register_fsdp_forward_method(module, _METHOD)
    method: Callable[..., Any] = module.__dict__[_METHOD]
    return method


def _call(function: Callable[[Tensor], Any], inputs: Tensor) -> Any:
    return function(inputs)
