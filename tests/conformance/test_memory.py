"""Any strides and alignment are served; nothing outside a tensor is read or written, and no input is changed."""

import pytest
import torch

import electra_kernels as ek

from . import views
from .cases import CASES, DIFFERENTIABLE, build, differentiable_outputs, tensor_arguments, workload
from .oracle import assert_equal

# Elements by which the start of a row is shifted; every seventh in the interpreter.
OFFSETS = range(0, 41, workload(1, interpreted=7))


def _assert_close(ours, expected):
    """A GEMM or a sum may round differently in another layout."""
    for one, other in zip(ours, expected):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("layout", views.LAYOUTS)
@pytest.mark.parametrize(("name", "argument"), list(tensor_arguments()))
def test_any_layout_of_any_argument(device, name, argument, layout):
    case = build(name, device)
    expected = case.outputs()
    view, memory = views.LAYOUTS[layout](case.tensors[argument])
    before = memory.clone()
    ours = case.outputs(**{argument: view})
    _assert_close(ours, expected)
    assert torch.equal(memory.nan_to_num(nan=7.0), before.nan_to_num(nan=7.0)), "an input was written to"


@pytest.mark.parametrize("layout", views.LAYOUTS)
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_arguments_in_any_layout(device, dtype, name, layout):
    case = build(name, device, dtype)
    gradients = []
    for change in (lambda tensor: (tensor.clone(), None), views.LAYOUTS[layout]):
        leaves = {key: change(case.tensors[key])[0].requires_grad_() for key in case.differentiable}
        loss = differentiable_outputs(case.outputs(**leaves))
        weights = torch.linspace(0.5, 2, loss.numel(), device=device).reshape(loss.shape)
        (loss * weights).sum().backward()
        gradients.append([leaf.grad for leaf in leaves.values()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", CASES)
def test_rows_that_start_0_to_40_elements_further(device, dtype, name):
    """Covers every alignment of a vector load in the largest argument of each op."""
    case = build(name, device, dtype, batch=workload(3, interpreted=1))
    argument = max(case.tensors, key=lambda key: case.tensors[key].numel())
    expected = case.outputs()
    for offset in OFFSETS:
        view, memory = views.shifted(case.tensors[argument], offset)
        _assert_close(case.outputs(**{argument: view}), expected)
        assert views.untouched(memory, view), f"offset {offset}"


# An odd number of tokens in one tile, and one token more than a tile.
@pytest.mark.parametrize("vocabulary", [7, 513])
def test_the_gradient_in_place_writes_nothing_outside_its_rows(device, dtype, vocabulary):
    op = torch.ops.electra_kernels.cross_entropy_sample_
    values = torch.randn(3, vocabulary).to(device, dtype)
    targets = torch.tensor([1, -100, 2], device=device)
    uniforms = torch.rand(3, dtype=torch.float64).to(device)
    expected = values.clone()
    results = op(expected, targets, uniforms, None, -100, "mean", 0.0, 1.0, False)
    placements = [
        views.strided(values),
        views.transposed(values),
        *(views.shifted(values, offset) for offset in OFFSETS),
    ]
    for view, memory in placements:
        _assert_close(op(view, targets, uniforms, None, -100, "mean", 0.0, 1.0, False), results)
        torch.testing.assert_close(view, expected)
        assert views.untouched(memory, view)
        torch.ops.electra_kernels.scale_gradient_(view, torch.tensor(3.0, device=device))
        torch.testing.assert_close(view, (expected.float() * 3).to(dtype))
        assert views.untouched(memory, view)


@pytest.mark.parametrize("offset", range(1, 8))
def test_the_gradient_of_rows_that_end_with_their_memory(device, dtype, offset):
    """The gradient's vectors begin elsewhere than those of the logits, and nothing lies behind the last row."""
    rows, vocabulary = 3, 1032
    memory = torch.randn(offset + rows * vocabulary).to(device, dtype)
    logits = memory[offset:].view(rows, vocabulary)
    targets = torch.tensor([1, 1031, 7], device=device)
    uniforms = torch.rand(rows, dtype=torch.float64).to(device)
    gradients = []
    for values in (logits, logits.clone()):
        leaf = values.detach().requires_grad_()
        ek.cross_entropy_sample(leaf, targets, uniforms=uniforms).loss.backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_expanded_rows_are_served(device, dtype):
    """All rows share the memory of one, as after broadcasting."""
    for name, argument in (
        ("sample_tokens", "logits"),
        ("cross_entropy_sample", "logits"),
        ("linear_cross_entropy_sample", "hidden"),
        ("linear_masked_bce", "hidden"),
        ("masked_bce_with_logits", "logits"),
        ("mask_tokens", "input_ids"),
        ("replace_tokens", "input_ids"),
        ("sample_replacements", "logits"),
    ):
        case = build(name, device, dtype)
        rows = case.tensors[argument][:1].expand_as(case.tensors[argument])
        _assert_close(case.outputs(**{argument: rows}), case.outputs(**{argument: rows.contiguous()}))


@pytest.mark.parametrize("name", CASES)
def test_the_same_inputs_give_the_same_bits(device, dtype, name):
    case = build(name, device, dtype)
    assert_equal(case.outputs_and_gradients(), case.outputs_and_gradients())


@pytest.mark.parametrize("empty", [{"batch": 0}, {"slots": 0}, {"batch": 0, "slots": 0}])
@pytest.mark.parametrize("name", [name for name in CASES if name != "mask_tokens"])
def test_an_empty_batch_keeps_dtypes_and_dimensions(device, dtype, name, empty):
    case = build(name, device, dtype, **empty)
    full = build(name, device, dtype)
    for ours, theirs in zip(case.outputs(), full.outputs()):
        assert ours.dtype == theirs.dtype
        assert ours.dim() == theirs.dim()


def test_masking_no_sequences_or_empty_ones(device):
    for batch, length in ((0, 20), (2, 0), (0, 0)):
        case = build("mask_tokens", device, batch=batch)
        ids = torch.ones(batch, length, dtype=torch.int64, device=device)
        changes = {"input_ids": ids, "maskable": ids > 0}
        masked = case(**changes)
        assert masked.input_ids.shape == (batch, length)
        assert masked.positions.shape == masked.targets.shape == (batch, 4)
        free = case(**changes, uniforms=None, max_predictions=None)
        assert free.positions.shape == (batch, 3 if length else 0)
