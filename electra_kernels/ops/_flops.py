"""FLOP formulas of the ops that contain a matrix product, for ``torch.utils.flop_counter``.

Only products count, as in torch, at 2 FLOPs per multiply-add. A formula has the name of its op and gets the arguments
of the schema with shapes instead of tensors.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from math import prod
from types import ModuleType
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"


def _product(hidden: torch.Size, outputs: int) -> int:
    """2 N V E for hidden [..., E] times weight [V, E], and as many for each of the two products of its gradient."""
    return 2 * prod(hidden) * outputs


def _is_per_token(arguments: tuple[Any, ...]) -> bool:
    """Whether ``reduction``, the only string among the arguments, is "none"."""
    return "none" in [argument for argument in arguments if isinstance(argument, str)]


def linear_cross_entropy_sample(hidden: torch.Size, weight: torch.Size, *arguments: Any, **_: Any) -> int:
    """Counts the logits and, for "mean" and "sum", the gradients of hidden and weight that are needed."""
    needs_gradient = arguments[-1]
    gradients = 0 if _is_per_token(arguments) else sum(needs_gradient[:2])
    return _product(hidden, weight[0]) * (1 + gradients)


def linear_cross_entropy_sample_backward(
    grad_loss: torch.Size, hidden: torch.Size, weight: torch.Size, *arguments: Any, **_: Any
) -> int:
    """Counts the recomputed logits and the needed gradients for "none"; otherwise the backward only scales."""
    needs_gradient = arguments[-1]
    return _product(hidden, weight[0]) * (1 + sum(needs_gradient[:2])) if _is_per_token(arguments) else 0


def linear_masked_bce(hidden: torch.Size, *arguments: Any, **_: Any) -> int:
    """Counts the logits and, for "mean" and "sum", the gradient of weight if a parameter needs one."""
    needs_parameter_gradients = arguments[-1]
    return _product(hidden, 1) * (1 + (needs_parameter_gradients and not _is_per_token(arguments)))


def linear_masked_bce_backward(grad_loss: torch.Size, hidden: torch.Size, *arguments: Any, **_: Any) -> int:
    """Counts the gradient of hidden and, for "none", that of weight; the op always computes both."""
    return _product(hidden, 1) * (1 + _is_per_token(arguments))


_FORMULAS = (
    linear_cross_entropy_sample,
    linear_cross_entropy_sample_backward,
    linear_masked_bce,
    linear_masked_bce_backward,
)


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    for formula in _FORMULAS:
        register_flop_formula(getattr(torch.ops.electra_kernels, formula.__name__))(formula)


class _AfterTheCounter(MetaPathFinder):
    """Registers the formulas right after the first import of torch's counter, which may come at any time.

    Importing the counter here would import triton, which ``import electra_kernels`` avoids on a machine without a GPU.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _COUNTER:
            return None
        sys.meta_path.remove(self)  # so that find_spec asks only the other finders
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                sys.meta_path.remove(self)
                _register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def register_flop_formulas() -> None:
    """Make ``FlopCounterMode`` count these ops, whether torch's counter is imported before or after them."""
    if _COUNTER in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterTheCounter())
