"""PyTorch's transforms of an op: checkpointing and deterministic mode work; vmap and torch.func are refused."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import electra_kernels as ek

from .cases import CASES, CUSTOM_OPS, DIFFERENTIABLE, DIFFERENTIABLE_CUSTOM_OPS, build
from .oracle import assert_equal

# The messages of torch for an autograd.Function without a rule for torch.func, and without one for dual numbers.
NO_TRANSFORM = "must override the setup_context staticmethod"
NO_FORWARD_MODE = "You must implement the jvp function for custom autograd.Function"


def _loss(case, **leaves):
    return next(output for output in case.outputs(**leaves) if output.dtype.is_floating_point).sum()


@pytest.mark.parametrize("name", CUSTOM_OPS)
def test_vmap_is_refused(device, name):
    case = build(name, device)

    def function(*tensors):
        return case.function(**dict(zip(case.tensors, tensors)), **case.options)

    with pytest.raises(RuntimeError, match=f"{name} has no rule for vmap: give it the rows as leading dim"):
        torch.vmap(function)(*(torch.stack([tensor] * 2) for tensor in case.tensors.values()))


@pytest.mark.parametrize("name", DIFFERENTIABLE_CUSTOM_OPS)
def test_a_batch_of_upstream_gradients_is_refused(device, name):
    case = build(name, device)
    leaves = case.leaves()
    upstream = torch.ones(3, device=device)
    with pytest.raises(RuntimeError, match=f"{name} has no rule for vmap"):
        torch.autograd.grad(_loss(case, **leaves), [*leaves.values()], upstream, is_grads_batched=True)


@pytest.mark.parametrize("transform", ["grad", "jacrev", "hessian"])
@pytest.mark.parametrize("name", DIFFERENTIABLE_CUSTOM_OPS)
def test_gradients_by_torch_func_are_refused(device, name, transform):
    case = build(name, device)
    argument = case.differentiable[0]
    function = getattr(torch.func, transform)(lambda value: _loss(case, **{argument: value}))
    with pytest.raises(RuntimeError, match=NO_TRANSFORM):
        function(case.tensors[argument])


@pytest.mark.parametrize("name", DIFFERENTIABLE_CUSTOM_OPS)
def test_forward_mode_is_refused_instead_of_giving_no_derivative(device, name):
    case = build(name, device)
    argument = case.differentiable[0]
    value = case.tensors[argument]
    with pytest.raises(RuntimeError, match=NO_TRANSFORM):
        torch.func.jvp(lambda value: _loss(case, **{argument: value}), (value,), (value,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=NO_FORWARD_MODE):
        case(**{argument: forward_ad.make_dual(value, torch.ones_like(value))})


@pytest.mark.parametrize("name", DIFFERENTIABLE_CUSTOM_OPS)
def test_a_dual_upstream_gradient_is_refused(device, name):
    case = build(name, device)
    leaves = case.leaves()
    loss = _loss(case, **leaves)
    with forward_ad.dual_level():
        upstream = forward_ad.make_dual(torch.ones_like(loss), torch.ones_like(loss))
        with pytest.raises(RuntimeError, match="the upstream gradient is a dual number"):
            torch.autograd.grad(loss, list(leaves.values()), upstream)


@pytest.mark.parametrize("name", ["labels", "mask", "pos_weight"])
@pytest.mark.parametrize("op", ["masked_bce_with_logits", "linear_masked_bce"])
def test_a_dual_label_mask_or_weight_is_refused(device, op, name):
    case = build(op, device)
    value = torch.full(case.tensors["labels"].shape, 0.5, device=device)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=NO_FORWARD_MODE):
        case(**{name: forward_ad.make_dual(value, torch.ones_like(value))})


def test_the_gradient_in_place_is_refused_under_transforms(device):
    case = build("cross_entropy_sample", device)

    def loss(logits):
        return ek.cross_entropy_sample(logits * 1, case.tensors["targets"], inplace_backward=True).loss

    with pytest.raises(RuntimeError, match=NO_TRANSFORM):
        torch.func.grad(loss)(case.tensors["logits"])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_checkpointing_repeats_the_same_draw(device, dtype, name, reentrant):
    """The uniforms are an argument, so the recomputation gives the same tokens."""
    case = build(name, device, dtype)
    calls, results = [], []

    def function(*values):
        calls.append([output.detach() for output in case.outputs(**dict(zip(case.differentiable, values)))])
        return _loss(case, **dict(zip(case.differentiable, values)))

    for run in (function, lambda *values: checkpoint(function, *values, use_reentrant=reentrant)):
        leaves = case.leaves()
        loss = run(*leaves.values())
        loss.backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves.values())])
    assert len(calls) == 3, "expected the forward, the forward under checkpoint and its recomputation"
    for repetition in calls[1:]:
        assert_equal(repetition, calls[0])
    assert_equal(*results)


def test_checkpointing_restores_the_draw_of_its_own_uniforms(device):
    """torch.utils.checkpoint restores the state of the generator that `draw_uniforms` uses."""
    case = build("cross_entropy_sample", device, slots=32)
    leaves, tokens = case.leaves(), []

    def function(logits):
        result = ek.cross_entropy_sample(logits, case.tensors["targets"])
        tokens.append(result.tokens)
        return result.loss.square()  # saves the loss, so that the recomputation runs up to here

    checkpoint(function, leaves["logits"], use_reentrant=False).backward()
    first, recomputed = tokens
    assert torch.equal(first, recomputed)


@pytest.fixture
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("name", CASES)
def test_deterministic_mode_changes_nothing(device, dtype, name):
    """This mode fills new memory with NaN, so an output that is not written, or is read too early, shows."""
    case = build(name, device, dtype)
    results = []
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic)
        results.append(case.outputs_and_gradients())
    assert_equal(*results)
