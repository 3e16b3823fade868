"""Bad arguments raise a TypeError or ValueError with the argument's name, its value and the expected value."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from .cases import CASES, LOSSES, SAMPLERS, WIDTH, build, tensor_arguments

OPTIONAL = {"uniforms", "banned", "mask", "pos_weight", "bias"}
NUMBER_OR_TENSOR = {"pos_weight"}
# The first tensor of each op. The shapes and devices of the other arguments are checked against it.
FIRST = {name: next(iter(build(name).tensors)) for name in CASES}
WRONG_DTYPE = {
    "input_ids": torch.int32, "maskable": torch.float32, "uniforms": torch.float32, "hidden": torch.int64,
    "positions": torch.int32, "logits": torch.int64, "banned": torch.float32, "tokens": torch.int32,
    "targets": torch.int32, "weight": torch.float16, "bias": torch.float16, "labels": torch.complex64,
    "mask": torch.complex64, "pos_weight": torch.int64,
}  # fmt: skip

# Shapes that test_another_shape_is_a_value_error tries but that are legal: (argument, change) for each op.
LEGAL_SHAPES = {
    "mask_tokens": (),
    "gather_rows": (("hidden", "one more"), ("positions", "one more")),
    "sample_tokens": (("logits", "one more"),),
    "replace_tokens": (("input_ids", "one more"),),
    "sample_replacements": (("logits", "one more"), ("input_ids", "one more")),
    "cross_entropy_sample": (("logits", "one more"),),
    "linear_cross_entropy_sample": (),
    "masked_bce_with_logits": (("mask", "none"), ("pos_weight", "none")),
    "linear_masked_bce": (("mask", "none"), ("pos_weight", "none"), ("bias", "none")),
}


def assert_refused(error, message, case, **changes):
    with pytest.raises(error, match=message):
        case(**changes)


@pytest.mark.parametrize(("name", "argument"), list(tensor_arguments()))
@pytest.mark.parametrize("value", [None, [1, 2], "text", 3])
def test_an_argument_that_is_not_a_tensor_is_a_type_error(name, argument, value):
    if value is None and argument in OPTIONAL:
        build(name)(**{argument: None})
        return
    if value == 3 and argument in NUMBER_OR_TENSOR:
        build(name)(**{argument: 3})
        return
    kind = "a number" if argument in NUMBER_OR_TENSOR else "a torch.Tensor"
    message = f"^{argument} is {type(value).__name__}, should be {kind}$"
    assert_refused(TypeError, message, build(name), **{argument: value})


@pytest.mark.parametrize(("name", "argument"), list(tensor_arguments()))
def test_another_dtype_is_a_type_error(name, argument):
    case, dtype = build(name), WRONG_DTYPE[argument]
    message = rf"^{argument}\.dtype is {re.escape(str(dtype))}, should be torch\."
    assert_refused(TypeError, message, case, **{argument: case.tensors[argument].to(dtype)})


@pytest.mark.parametrize(("name", "argument"), list(tensor_arguments()))
def test_another_device_is_a_value_error(name, argument):
    if argument == FIRST[name]:
        first = build(name).tensors[argument].to("meta")
        assert_refused(ValueError, r"^\w+ is on cpu, should be on meta", build(name), **{argument: first})
        return
    case = build(name)
    message = f"^{argument} is on meta, should be on cpu"
    assert_refused(ValueError, message, case, **{argument: case.tensors[argument].to("meta")})


@pytest.mark.parametrize(("name", "argument"), list(tensor_arguments()))
@pytest.mark.parametrize("change", ["one more", "one dimension more", "none"])
def test_another_shape_is_a_value_error(name, argument, change):
    """The message names an argument of the op: not always the changed one, as others are compared with the first."""
    case = build(name)
    tensor = case.tensors[argument]
    if change == "none":
        bad = tensor.reshape(-1)[0]
    else:
        bad = (
            tensor.repeat(*[1] * (tensor.dim() - 1), 2)
            if change == "one more"
            else tensor.expand(2, *tensor.shape)
        )
    if (argument, change) in LEGAL_SHAPES[name]:
        case(**{argument: bad})
        return
    with pytest.raises(ValueError, match=r"^\w+ has shape \[.*\], should ") as caught:
        case(**{argument: bad})
    named = str(caught.value).split()[0]
    assert named in case.tensors
    if argument not in (FIRST[name], "weight", "positions"):
        assert named == argument
        assert str(list(bad.shape)) in str(caught.value)


# (op, changed options, error, beginning of the message).
OPTIONS = [
    ("mask_tokens", {"vocab_size": 0}, ValueError, "vocab_size is 0, should be at least 1"),
    ("mask_tokens", {"vocab_size": 3.5}, TypeError, "vocab_size is float, should be an int"),
    ("mask_tokens", {"mask_token_id": 37}, ValueError, r"mask_token_id is 37, should be in \[0, 37\)"),
    ("mask_tokens", {"mask_token_id": -1}, ValueError, r"mask_token_id is -1, should be in \[0, 37\)"),
    ("mask_tokens", {"mask_token_id": None}, TypeError, "mask_token_id is NoneType, should be an int"),
    ("mask_tokens", {"probability": 0.0}, ValueError, r"probability is 0.0, should be in \(0, 1\]"),
    ("mask_tokens", {"probability": 1.5}, ValueError, r"probability is 1.5, should be in \(0, 1\]"),
    ("mask_tokens", {"probability": "a"}, TypeError, "probability is str, should be a number"),
    ("mask_tokens", {"mask_fraction": -0.1}, ValueError, r"mask_fraction is -0.1, should be in \[0, 1\]"),
    ("mask_tokens", {"random_fraction": float("nan")}, ValueError, r"random_fraction is nan, should be in"),
    ("mask_tokens", {"random_fraction": 0.2}, ValueError, r"mask_fraction \+ random_fraction is 1.05, should be"),
    ("mask_tokens", {"max_predictions": 0}, ValueError, "max_predictions is 0, should be at least 1 or None"),
    ("mask_tokens", {"max_predictions": 1.0}, TypeError, "max_predictions is float, should be an int"),
    *[
        (name, {"temperature": value}, error, f"temperature is {shown}, should be ")
        for name in SAMPLERS
        for value, error, shown in (
            (0.0, ValueError, "0.0"), (-1.0, ValueError, "-1.0"), (float("nan"), ValueError, "nan"),
            (float("inf"), ValueError, "inf"), (1e-40, ValueError, "1e-40"), (1e300, ValueError, r"1e\+300"),
            (None, TypeError, "NoneType"), (10**400, ValueError, "an integer of 1329 bits"),
        )
    ],
    *[
        (name, {"z_loss": value}, error, f"z_loss is {shown}, should be ")
        for name in ("cross_entropy_sample", "linear_cross_entropy_sample")
        for value, error, shown in (
            (-0.1, ValueError, "-0.1"), (float("nan"), ValueError, "nan"), (float("inf"), ValueError, "inf"),
            (1e300, ValueError, r"1e\+300"), (None, TypeError, "NoneType"),
        )
    ],
    *[
        (name, {"ban_original": np.True_}, TypeError, "ban_original is numpy.bool, should be a bool")
        for name in ("sample_replacements", "cross_entropy_sample", "linear_cross_entropy_sample")
    ],
    *[
        (name, {"uniforms": build(name).tensors["uniforms"].requires_grad_()}, ValueError,
         "uniforms requires grad, should be detached")
        for name in ("mask_tokens", *SAMPLERS)
    ],
    *[
        ("mask_tokens", {option: 2**63}, ValueError, f"{option} is 9223372036854775808, should fit into 64 bits")
        for option in ("vocab_size", "mask_token_id", "max_predictions")
    ],
    ("mask_tokens", {"probability": 10**400}, ValueError, "probability is an integer of 1329 bits, should be a number"),
    *[
        (name, {"ban_original": 1}, TypeError, "ban_original is int, should be a bool")
        for name in ("sample_replacements", "cross_entropy_sample", "linear_cross_entropy_sample")
    ],
    ("cross_entropy_sample", {"inplace_backward": None}, TypeError, "inplace_backward is NoneType, should be a bool"),
    *[
        (name, changes, error, message)
        for name in LOSSES
        for changes, error, message in (
            ({"reduction": "avg"}, ValueError, "reduction is 'avg', should be one of 'mean', 'sum', 'none'"),
            ({"reduction": None}, ValueError, "reduction is None, should be one of 'mean', 'sum', 'none'"),
            ({"normalizer": -1.0}, ValueError, "normalizer is -1.0, should be a positive, finite number"),
            ({"normalizer": float("nan")}, ValueError, "normalizer is nan, should be a positive, finite number"),
            ({"normalizer": 10**400}, ValueError, "normalizer is an integer of 1329 bits, should be a number"),
            ({"normalizer": 10**5000}, ValueError, "normalizer is an integer of 16610 bits, should be a number"),
            ({"normalizer": [3]}, TypeError, "normalizer is list, should be a number"),
            ({"normalizer": torch.ones(1)}, ValueError, r"normalizer has shape \[1\], should be a number or a 0-dim"),
            ({"normalizer": torch.ones((), device="meta")}, ValueError, "normalizer is on meta, should be on cpu"),
            ({"normalizer": 2.0, "reduction": "sum"}, ValueError, "normalizer is given with reduction='sum'"),
        )
    ],
    *[
        (name, {"ignore_index": value}, error, f"ignore_index is {shown}")
        for name in ("cross_entropy_sample", "linear_cross_entropy_sample")
        for value, error, shown in (
            (0.5, TypeError, "float, should be an int"), (np.True_, TypeError, "numpy.bool, should be an int"),
            (2**63, ValueError, "9223372036854775808, should fit into 64 bits"),
            (-(2**63) - 1, ValueError, "-9223372036854775809, should fit into 64 bits"),
        )
    ],
    *[
        (name, changes, error, message)
        for name in ("masked_bce_with_logits", "linear_masked_bce")
        for changes, error, message in (
            ({"label_smoothing": 1.5}, ValueError, r"label_smoothing is 1.5, should be in \[0, 1\]"),
            ({"label_smoothing": None}, TypeError, "label_smoothing is NoneType, should be a number"),
            ({"pos_weight": -1.0}, ValueError, "pos_weight is -1.0, should be a finite number of at least 0"),
            ({"pos_weight": float("inf")}, ValueError, "pos_weight is inf, should be a finite number"),
            ({"pos_weight": 1e300}, ValueError, r"pos_weight is 1e\+300, should be a finite number"),
            ({"pos_weight": 10**400}, ValueError, "pos_weight is an integer of 1329 bits, should be a number"),
            ({"pos_weight": np.True_}, TypeError, "pos_weight is numpy.bool, should be a number"),
            ({"label_smoothing": 10**400}, ValueError, "label_smoothing is an integer of 1329 bits, should be a"),
            ({"pos_weight": torch.ones(5)}, ValueError, r"pos_weight has shape \[5\], should broadcast to \[3, 4\]"),
            ({"mask": torch.ones(2, 4)}, ValueError, r"mask has shape \[2, 4\], should broadcast to \[3, 4\]"),
            *[
                ({key: torch.ones(3, 4, requires_grad=True)}, ValueError, f"{key} requires grad, should be detached")
                for key in ("mask", "pos_weight", "labels")
            ],
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "error", "message"), OPTIONS)
def test_an_option_out_of_range_is_refused(name, changes, error, message):
    assert_refused(error, f"^{message}", build(name), **changes)


@pytest.mark.parametrize("number", [3, 2**64, Fraction(7, 2), np.float32(3), np.float16(3), np.int32(3)])
@pytest.mark.parametrize("name", LOSSES)
def test_a_number_of_any_type_is_accepted(name, number):
    """Includes types that torch does not accept as numbers, and integers beyond 64 bits."""
    case = build(name)
    options = ["normalizer"] + (["pos_weight"] if "bce" in name else [])
    for option in options:
        ours, expected = (case.outputs(**{option: value}) for value in (number, float(number)))
        assert torch.equal(ours[0], expected[0])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_infinities_and_zeros_of_numpy_types_are_refused(kind):
    """A comparison in a narrow numpy dtype would round the bound to infinity."""
    for name in LOSSES:
        assert_refused(ValueError, "^normalizer is inf, should be", build(name), normalizer=kind("inf"))
    assert_refused(ValueError, "^pos_weight is inf", build("linear_masked_bce"), pos_weight=kind("inf"))
    for name in SAMPLERS:
        for value in (0.0, "inf"):
            assert_refused(ValueError, "^temperature is", build(name), temperature=kind(value))


def test_an_empty_vocabulary_and_a_missing_dimension_are_refused():
    assert_refused(
        ValueError,
        r"^logits has shape \[3, 0\], should be \[..., V\]",
        build("sample_tokens"),
        logits=torch.ones(3, 0),
    )
    assert_refused(
        ValueError,
        r"^hidden has shape \[\], should be \[..., E\]",
        build("linear_cross_entropy_sample"),
        hidden=torch.ones(()),
    )
    assert_refused(
        ValueError,
        r"^hidden has shape \[\], should be \[..., H\] with H at least 1",
        build("linear_masked_bce"),
        hidden=torch.ones(()),
    )
    weight = torch.ones(0, WIDTH)
    assert_refused(
        ValueError,
        r"^weight has shape \[0, 6\], should be \[V, E\]",
        build("linear_cross_entropy_sample"),
        weight=weight,
    )
