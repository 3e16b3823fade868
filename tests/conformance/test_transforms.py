"""What torch does to an op from outside: checkpointing, deterministic mode; transforms without a rule are refused."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import electra_kernels as ek

from .cases import CASES, DIFFERENTIABLE, build

OWN = tuple(name for name in CASES if name != "gather_rows")  # which is plain torch, with all of its rules
OWN_DIFFERENTIABLE = tuple(name for name in DIFFERENTIABLE if name != "gather_rows")
# What torch says of an autograd.Function that has no rule for torch.func, and of one that has none for dual numbers.
NO_TRANSFORM = "must override the setup_context staticmethod"
NO_FORWARD_MODE = "You must implement the jvp function for custom autograd.Function"


def _loss(case, **leaves):
    return next(output for output in case.outputs(**leaves) if output.dtype.is_floating_point).sum()


@pytest.mark.parametrize("name", OWN)
def test_vmap_is_refused(device, name):
    case = build(name, device)

    def function(*tensors):
        return case.function(**dict(zip(case.tensors, tensors)), **case.options)

    own = f"{name} has no rule for vmap: give it the rows as leading dim"
    with pytest.raises(RuntimeError, match=NO_TRANSFORM if name in OWN_DIFFERENTIABLE else own):
        torch.vmap(function)(*(torch.stack([tensor] * 2) for tensor in case.tensors.values()))


@pytest.mark.parametrize("name", OWN_DIFFERENTIABLE)
def test_a_batch_of_upstream_gradients_is_refused(device, name):
    case = build(name, device)
    leaves = case.leaves()
    upstream = torch.ones(3, device=device)
    with pytest.raises(RuntimeError, match=f"{name} has no rule for vmap"):
        torch.autograd.grad(_loss(case, **leaves), [*leaves.values()], upstream, is_grads_batched=True)


@pytest.mark.parametrize("transform", ["grad", "jacrev", "hessian"])
@pytest.mark.parametrize("name", OWN_DIFFERENTIABLE)
def test_gradients_by_torch_func_are_refused(device, name, transform):
    case = build(name, device)
    argument = case.differentiable[0]
    function = getattr(torch.func, transform)(lambda value: _loss(case, **{argument: value}))
    with pytest.raises(RuntimeError, match=NO_TRANSFORM):
        function(case.tensors[argument])


@pytest.mark.parametrize("name", OWN_DIFFERENTIABLE)
def test_forward_mode_is_refused_instead_of_giving_no_derivative(device, name):
    case = build(name, device)
    argument = case.differentiable[0]
    value = case.tensors[argument]
    with pytest.raises(RuntimeError, match=NO_TRANSFORM):
        torch.func.jvp(lambda value: _loss(case, **{argument: value}), (value,), (value,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=NO_FORWARD_MODE):
        case(**{argument: forward_ad.make_dual(value, torch.ones_like(value))})


def test_the_gradient_in_place_is_refused_under_transforms(device):
    case = build("cross_entropy_sample", device)

    def loss(logits):
        return ek.cross_entropy_sample(logits * 1, case.tensors["targets"], inplace_backward=True).loss

    with pytest.raises(RuntimeError, match=NO_TRANSFORM):
        torch.func.grad(loss)(case.tensors["logits"])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_checkpointing_draws_the_same_again(device, dtype, name, reentrant):
    """The uniforms are an argument, so what is recomputed is what was computed."""
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
    assert len(calls) == 3, "the forward, the forward under checkpoint, and its repetition"
    for outputs in (*zip(*calls), *zip(*results)):
        assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_checkpointing_restores_the_draw_of_its_own_uniforms(device):
    """torch.utils.checkpoint keeps the state of the generators, which `draw_uniforms` draws from."""
    case = build("cross_entropy_sample", device, slots=32)
    leaves, tokens = case.leaves(), []

    def function(logits):
        result = ek.cross_entropy_sample(logits, case.tensors["targets"])
        tokens.append(result.tokens)
        return result.loss.square()  # it saves the loss; the repetition ends with what is saved last

    checkpoint(function, leaves["logits"], use_reentrant=False).backward()
    first, again = tokens
    assert torch.equal(first, again)


@pytest.fixture
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("name", CASES)
def test_deterministic_mode_changes_nothing(device, dtype, name):
    """It fills new memory with NaN besides: every output is written, and nothing is read before it is."""
    case = build(name, device, dtype)
    results = []
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic)
        leaves = case.leaves()
        outputs = case.outputs(**leaves)
        if leaves:
            next(output for output in outputs if output.requires_grad).sum().backward()
        results.append([*outputs, *(leaf.grad for leaf in leaves.values())])
    for one, other in zip(*results):
        assert torch.equal(one, other)
