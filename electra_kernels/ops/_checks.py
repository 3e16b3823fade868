"""Checks of arguments. An error names the argument, its value and what it should be.

The checks read only shapes, dtypes, devices and Python numbers, so they never wait for a GPU and torch.compile traces
them away.
"""

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from electra_kernels.uniforms import draw_uniforms

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
REDUCTIONS = ("mean", "sum", "none")
NORMALIZERS = (torch.float32, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# Keeps 1/T and logit/T finite in float32.
TEMPERATURES = (1e-30, 1e30)
LARGEST_FLOAT32 = torch.finfo(torch.float32).max


def check_tensor(
    name: str, value: Tensor, dtypes: Sequence[torch.dtype], device: torch.device | None
) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {_type_name(value)}, should be a torch.Tensor")
    if is_dtensor(value):
        raise TypeError(
            f"{name} is a DTensor, should be a plain tensor: its to_local() (only linear_cross_entropy_sample takes "
            "DTensors, with a weight sharded on dimension 0)"
        )
    if value.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{name}.dtype is {value.dtype}, should be {expected}")
    if device is not None and value.device != device:
        raise ValueError(f"{name} is on {value.device}, should be on {device} like the first argument")


def is_dtensor(value: object) -> bool:
    """Whether a tensor is a DTensor, without an import of ``torch.distributed.tensor``."""
    return type(value) is not Tensor and hasattr(value, "device_mesh")


def check_dim(name: str, value: Tensor, dimensions: int, layout: str) -> None:
    if value.dim() != dimensions:
        raise ValueError(f"{name} has shape {list(value.shape)}, should be {layout}")


def check_shape(name: str, value: Tensor, shape: tuple[int, ...], layout: str) -> None:
    if value.shape != shape:
        raise ValueError(f"{name} has shape {list(value.shape)}, should be {layout} = {list(shape)}")


def check_int64(name: str, value: Tensor, shape: tuple[int, ...], layout: str, device: torch.device) -> None:
    check_tensor(name, value, (torch.int64,), device)
    check_shape(name, value, shape, layout)


def check_row_logits(logits: Tensor) -> None:
    check_tensor("logits", logits, FLOATING, None)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits has shape {list(logits.shape)}, should be [..., V] with V at least 1")


def _type_name(value: object) -> str:
    """The type's name, with its module unless it is builtin: numpy's bool must not read like Python's."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _shown(value: float) -> str:
    """The value as text. Python may refuse to print an integer of thousands of digits, so only its size is given."""
    bits = value.bit_length() if isinstance(value, int) else 0
    return f"an integer of {bits} bits" if bits > 128 else str(value)


def check_number(name: str, value: float) -> float:
    """The number as a Python float, because a comparison in a narrow numpy type would round the bounds."""
    if type(value) is not float and not isinstance(value, numbers.Real):  # the second is slow
        raise TypeError(f"{name} is {_type_name(value)}, should be a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is {_shown(value)}, should be a number that float64 holds") from None


def check_integer(name: str, value: int) -> None:
    if type(value) is not int and (not isinstance(value, numbers.Integral) or isinstance(value, bool)):
        raise TypeError(f"{name} is {_type_name(value)}, should be an int")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {_shown(value)}, should fit into 64 bits")


def check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {_type_name(value)}, should be a bool")


def check_fraction(name: str, value: float, *, zero: bool) -> None:
    number = check_number(name, value)
    if not (0 <= number <= 1 if zero else 0 < number <= 1):
        raise ValueError(f"{name} is {value}, should be in {'[' if zero else '('}0, 1]")


def check_weight(name: str, value: float) -> float:
    number = check_number(name, value)
    if not 0 <= number <= LARGEST_FLOAT32:
        raise ValueError(f"{name} is {value}, should be a finite number of at least 0 that float32 holds")
    return number


def check_temperature(temperature: float) -> None:
    number = check_number("temperature", temperature)
    lowest, highest = TEMPERATURES
    if not lowest <= number <= highest:
        raise ValueError(f"temperature is {temperature}, should be from {lowest} to {highest}")


def check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, should be one of {', '.join(map(repr, REDUCTIONS))}")


def check_uniforms(uniforms: Tensor, shape: tuple[int, ...], layout: str, device: torch.device) -> None:
    check_tensor("uniforms", uniforms, (torch.float64,), device)
    check_shape("uniforms", uniforms, shape, layout)
    if uniforms.requires_grad:
        raise ValueError("uniforms requires grad, should be detached: no gradient is computed for it")


def check_parameter(name: str, value: Tensor, like: Tensor, shape: tuple[int, ...], layout: str) -> None:
    """A parameter has the dtype of the activations or float32 (master weights)."""
    check_tensor(name, value, tuple(dict.fromkeys((like.dtype, torch.float32))), like.device)
    check_shape(name, value, shape, layout)


def check_projection(weight: Tensor, hidden: Tensor) -> None:
    layout = "[V, E] with V at least 1"
    check_tensor("weight", weight, FLOATING, hidden.device)
    check_dim("weight", weight, 2, layout)
    check_parameter("weight", weight, hidden, (max(1, weight.shape[0]), hidden.shape[-1]), layout)


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, torch.Size]:
    """The operands of a projection to the vocabulary. Returns hidden as autocast wants it, and its shape [...]."""
    check_tensor("hidden", hidden, FLOATING, None)
    if hidden.dim() == 0:
        raise ValueError("hidden has shape [], should be [..., E]")
    hidden = hidden.to(autocast_dtype(hidden))
    check_projection(weight, hidden)
    if bias is not None:
        check_tensor("bias", bias, (weight.dtype,), hidden.device)
        check_parameter("bias", bias, hidden, weight.shape[:1], "[V]")
    return hidden, hidden.shape[:-1]


def check_rows(
    targets: Tensor,
    uniforms: Tensor | None,
    normalizer: float | Tensor | None,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    temperature: float,
    ban_original: bool,
    shape: tuple[int, ...],
    layout: str,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """The arguments of a masked-LM loss besides its operands, for rows of ``shape``.

    Returns:
        uniforms, which are drawn if they are None; and the denominator as by `normalizer_tensor`.
    """
    check_int64("targets", targets, shape, layout, device)
    check_integer("ignore_index", ignore_index)
    check_flag("ban_original", ban_original)
    check_weight("z_loss", z_loss)
    check_temperature(temperature)
    denominator = normalizer_tensor(normalizer, reduction, device)
    if uniforms is None:
        uniforms = draw_uniforms(shape, device=device)
    check_uniforms(uniforms, shape, layout, device)
    return uniforms, denominator


def normalizer_tensor(
    normalizer: float | Tensor | None, reduction: str, device: torch.device
) -> Tensor | None:
    """The denominator as a float64 tensor [] on the device, without a synchronisation; None stays None."""
    check_reduction(reduction)
    if normalizer is None:
        return None
    if reduction != "mean":
        raise ValueError(f'normalizer is given with reduction={reduction!r}, should be with reduction="mean"')
    if isinstance(normalizer, Tensor):
        check_shape("normalizer", normalizer, (), "a number or a 0-dim tensor")
        if normalizer.requires_grad:
            raise ValueError("normalizer requires grad, should be detached: no gradient is computed for it")
        if normalizer.device != device:
            raise ValueError(f"normalizer is on {normalizer.device}, should be on {device} like the logits")
        # Half precision cannot hold a large count: a policy that casts inputs turns 70,000 into inf or 69,632.
        check_tensor("normalizer", normalizer, NORMALIZERS, device)
        return normalizer.double()
    number = check_number("normalizer", normalizer)
    if not 0 < number < float("inf"):
        raise ValueError(f"normalizer is {normalizer}, should be a positive, finite number")
    return scalar_tensor(number, device)


def scalar_tensor(value: float, device: torch.device) -> Tensor:
    """A number as a float64 tensor [] on the device."""
    if torch.compiler.is_compiling():
        # torch.full would keep the value that the graph was captured with (pytorch issue 197889).
        return torch.ones((), dtype=torch.float64, device=device) * value
    return torch.full((), value, dtype=torch.float64, device=device)


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype to which autocast casts an operand of a matrix product; float64 stays as it is."""
    device = tensor.device.type
    if device == "meta" or tensor.dtype == torch.float64:  # autocast knows no meta device
        return tensor.dtype
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype
