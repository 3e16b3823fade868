"""Elements out of range in integer and float arguments raise a ValueError that names the first of them."""

import pytest
import torch

from .cases import LENGTH, SAMPLERS, VOCABULARY, build, skip_unless_values_are_checked
from .test_arguments import assert_refused

# (op, argument, invalid value of one element, expectation in the message).
VALUES = [
    ("mask_tokens", "input_ids", VOCABULARY, r"in \[0, 37\)"),
    ("mask_tokens", "input_ids", -1, r"in \[0, 37\)"),
    *[
        (name, "uniforms", value, r"in \[0, 1\)")
        for name in ("mask_tokens", *SAMPLERS)
        for value in (1.0, -0.25, float("nan"))
    ],
    ("sample_tokens", "banned", VOCABULARY, r"below 37"),
    ("sample_replacements", "targets", VOCABULARY, r"below 37"),
    ("sample_replacements", "positions", LENGTH, r"in \[0, 20\)"),
    ("replace_tokens", "positions", -1, r"in \[0, 20\)"),
    *[
        (name, "targets", value, r"in \[0, 37\) or ignore_index \(-100\)")
        for name in ("cross_entropy_sample", "linear_cross_entropy_sample")
        for value in (VOCABULARY, -1)
    ],
    *[(name, "labels", 2, r"0, 1 or -100") for name in ("masked_bce_with_logits", "linear_masked_bce")],
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument", "value", "expected"), VALUES)
def test_an_element_out_of_range_is_refused_on_the_cpu(device, name, argument, value, expected):
    skip_unless_values_are_checked(device)
    case = build(name, device)
    if argument == "labels":
        changes = {"labels": torch.zeros_like(case.tensors["labels"], dtype=torch.int64), "mask": None}
    elif argument == "positions":
        slots = case.tensors[argument].shape
        changes = {argument: case.tensors[argument].clone(), "tokens": torch.ones(slots, dtype=torch.int64)}
        if name == "sample_replacements":
            changes["targets"] = changes.pop("tokens")
    else:
        changes = {argument: case.tensors[argument].clone()}
    changes[argument].view(-1)[5] = value
    index = r"\[" + ", ".join(r"\d" for _ in changes[argument].shape) + r"\]"
    assert_refused(ValueError, rf"^{argument}{index} is {value}, should be {expected}", case, **changes)


def test_a_float_label_out_of_range_is_refused(device):
    skip_unless_values_are_checked(device)
    for name in ("masked_bce_with_logits", "linear_masked_bce"):
        for value in (1.5, -0.5, float("nan")):
            case = build(name, device)
            labels = torch.full_like(case.tensors["labels"], value, dtype=torch.float32)
            message = rf"^labels\[0, 0\] is {value}, should be in \[0, 1\]"
            assert_refused(ValueError, message, case, labels=labels, mask=None)


@pytest.mark.parametrize("name", ["masked_bce_with_logits", "linear_masked_bce"])
@pytest.mark.parametrize("mask", ["none", "all", "some"])
def test_a_label_of_minus_100_in_an_unsigned_dtype_is_refused(device, name, mask):
    """In uint8, -100 becomes 156, which is neither ignored nor a label."""
    skip_unless_values_are_checked(device)
    case = build(name, device)
    labels = torch.zeros_like(case.tensors["labels"], dtype=torch.int64)
    labels[1, 2] = -100
    flags = torch.ones_like(labels, dtype=torch.bool)
    flags[0, 0] = mask == "all"
    changes = {"labels": labels.to(torch.uint8), "mask": None if mask == "none" else flags}
    message = r"^labels\[1, 2\] is 156, should be 0 or 1: torch.uint8 has no -100$"
    assert_refused(ValueError, message, case, **changes)
    flags[1, 2] = False  # under a mask of 0 every value is legal
    case(labels=labels.to(torch.uint8), mask=flags)
