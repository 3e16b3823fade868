"""`electra_kernels.nn.MaskedBCEWithLogitsLoss`: its options, and how its buffer is saved, moved and converted."""

import copy
import math
import pickle

import pytest
import torch

import electra_kernels
from electra_kernels import nn


def test_the_module_calls_the_op_with_its_options():
    loss = nn.MaskedBCEWithLogitsLoss(pos_weight=3.0, label_smoothing=0.2, reduction="sum")
    logits, labels, mask = torch.randn(2, 5), torch.randint(0, 2, (2, 5)), torch.ones(2, 5)
    expected = electra_kernels.masked_bce_with_logits(
        logits, labels, mask, pos_weight=3.0, label_smoothing=0.2, reduction="sum"
    )
    assert torch.equal(loss(logits, labels, mask), expected)


def test_a_tensor_of_positive_weights_is_converted_with_the_module():
    loss = nn.MaskedBCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0]))
    assert loss.double().pos_weight.dtype == torch.float64
    assert loss(torch.zeros(3, 2), torch.ones(3, 2)).item() == pytest.approx(1.5 * 0.6931472)


# An integer, numbers that are inexact in binary, one beyond float16, one that is tiny, and 0.
NUMBERS = [3, 0.1, 1 / 3, 70_000.0, 1e-30, 0.0]


def loss_and_gradient(loss, dtype):
    torch.manual_seed(0)
    logits = torch.randn(4, 7).to(dtype).requires_grad_()
    value = loss(logits, torch.randint(0, 2, (4, 7)), torch.ones(4, 7))
    return value, *torch.autograd.grad(value, logits)


@pytest.mark.parametrize("convert", ["half", "bfloat16", "float", "double", "cpu"])
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_number_in_the_module_equals_that_number_in_the_op(number, dtype, convert):
    def op(*arguments):
        return electra_kernels.masked_bce_with_logits(*arguments, pos_weight=number)

    module = getattr(torch.nn.Sequential(nn.MaskedBCEWithLogitsLoss(pos_weight=number)), convert)()[0]
    for ours, theirs in zip(loss_and_gradient(module, dtype), loss_and_gradient(op, dtype), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("pos_weight", [3, 0.1, torch.tensor(2.5), torch.tensor([1.0, 2.0])])
def test_the_positive_weight_is_a_saved_buffer(pos_weight):
    module = nn.MaskedBCEWithLogitsLoss(pos_weight=pos_weight)
    assert [name for name, _ in module.named_buffers()] == ["pos_weight"]
    other = nn.MaskedBCEWithLogitsLoss(pos_weight=torch.zeros_like(module.pos_weight))
    other.load_state_dict(module.state_dict())
    for restored in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(restored.pos_weight, module.pos_weight)
        assert restored.pos_weight.dtype == module.pos_weight.dtype


def test_without_a_positive_weight_nothing_is_saved():
    module = nn.MaskedBCEWithLogitsLoss()
    assert module.pos_weight is None
    assert not module.state_dict()
    assert module.half().to("meta").pos_weight is None
    module.pos_weight = torch.tensor(2.0)
    assert list(module.state_dict()) == ["pos_weight"], (
        "None should be registered as a buffer, as in torch.nn.BCEWithLogitsLoss"
    )


@pytest.mark.parametrize(
    ("value", "convert", "expected"),
    [
        (torch.tensor(70_000.0), torch.float16, torch.float32),
        (torch.tensor(3.3), torch.bfloat16, torch.float32),
        (torch.tensor(1e30, dtype=torch.bfloat16), torch.float16, torch.bfloat16),
        (torch.tensor(1e300, dtype=torch.float64), torch.float32, torch.float64),
        (torch.tensor(1e30, dtype=torch.bfloat16), torch.float32, torch.float32),
        (torch.tensor(3.3), torch.float64, torch.float64),
    ],
)
def test_a_conversion_keeps_the_value_of_the_positive_weight(value, convert, expected):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), nn.MaskedBCEWithLogitsLoss(pos_weight=value))
    linear, loss = model.to(convert)
    assert linear.weight.dtype == convert
    assert loss.pos_weight.dtype == expected
    assert loss.pos_weight.item() == value.item()


def test_a_number_survives_the_meta_device():
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), nn.MaskedBCEWithLogitsLoss(pos_weight=3.5))
    assert model.to_empty(device="cpu")[1].pos_weight.item() == 3.5


def test_a_number_serves_logits_on_any_device():
    logits, labels = (torch.ones(2, 3, device="meta") for _ in range(2))
    assert nn.MaskedBCEWithLogitsLoss(pos_weight=3.0)(logits, labels).is_meta


def test_logits_that_are_not_a_tensor_are_refused():
    with pytest.raises(TypeError, match=r"logits is list, should be a torch\.Tensor"):
        nn.MaskedBCEWithLogitsLoss(pos_weight=3.0)([1.0], torch.ones(1))


@pytest.mark.parametrize("number", [-1, math.inf, math.nan, 10**400])
def test_a_positive_weight_out_of_range_is_refused(number):
    with pytest.raises(ValueError, match=r"pos_weight is .*, should be a (finite )?number"):
        nn.MaskedBCEWithLogitsLoss(pos_weight=number)


def test_a_positive_weight_that_is_not_a_number_is_refused():
    with pytest.raises(TypeError, match="pos_weight is str, should be a number"):
        nn.MaskedBCEWithLogitsLoss(pos_weight="3")
