"""`inplace_backward`: the gradient that overwrites the logits is right or refused, never silently wrong."""

import pytest
import torch

from electra_kernels import cross_entropy_sample

from .oracle import IGNORED, assert_equal


def _inputs(device, dtype=torch.float32, rows=6, vocabulary=53):
    leaf = torch.randn(rows, vocabulary).to(device, dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), device=device)
    targets[1] = IGNORED
    return leaf, targets


@pytest.mark.parametrize("upstream", [1.0, 3.7])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_gradient_in_place_equals_the_other_and_overwrites_the_logits(device, dtype, reduction, upstream):
    leaf, targets = _inputs(device, dtype)
    uniforms = torch.rand(6, dtype=torch.float64).to(device)
    options = {"reduction": reduction, "uniforms": uniforms, "temperature": 0.7, "ban_original": True}
    expected = cross_entropy_sample(leaf, targets, **options)
    (gradient,) = torch.autograd.grad(expected.loss * upstream, leaf)
    logits = leaf * 1
    ours = cross_entropy_sample(logits, targets, inplace_backward=True, **options)
    assert_equal(ours, expected)
    memory = logits.data_ptr()
    (overwritten,) = torch.autograd.grad(ours.loss * upstream, logits)
    assert overwritten.data_ptr() == memory, "the gradient should reuse the memory of the logits"
    # One may compute exp(x - logsumexp), the other exp(x - maximum) exp(maximum - logsumexp). Both round an exponent
    # of up to 8 to float32, and a GPU's exponential has an error of up to 2 units in the last place.
    rtol = 3 * torch.finfo(dtype).eps + 8 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(overwritten, gradient, atol=0, rtol=rtol)


def test_the_backward_of_an_op_that_saved_the_old_logits_raises(device):
    """tanh saves its output for its backward. Without a version bump the result would be silently wrong."""
    leaf, targets = _inputs(device)
    loss = cross_entropy_sample(leaf.tanh(), targets, inplace_backward=True).loss
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_forward_alone_invalidates_what_others_saved_of_the_logits(device):
    leaf, targets = _inputs(device)
    logits = leaf.tanh()
    other = logits.square().sum()
    cross_entropy_sample(logits, targets, inplace_backward=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()


def test_an_op_that_saved_the_old_logits_has_the_right_gradient_when_compiled(device):
    leaf, targets = _inputs(device)
    uniforms = torch.rand(6, dtype=torch.float64).to(device)

    def loss(x, *, inplace):
        return cross_entropy_sample(x.tanh(), targets, uniforms=uniforms, inplace_backward=inplace).loss

    (expected,) = torch.autograd.grad(loss(leaf, inplace=False), leaf)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (ours,) = torch.autograd.grad(compiled(leaf, inplace=True), leaf)
    torch.testing.assert_close(ours, expected)


def test_the_gradient_through_a_linear_layer(device):
    leaf, targets = _inputs(device, vocabulary=7)
    weight = torch.randn(53, 7, device=device, requires_grad=True)
    results = []
    for inplace in (False, True):
        loss = cross_entropy_sample(leaf @ weight.T, targets, inplace_backward=inplace).loss
        results.append(torch.autograd.grad(loss, (leaf, weight)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("upstream", [1.0, 2.0])
def test_a_second_backward_raises(device, upstream):
    leaf, targets = _inputs(device)
    loss = cross_entropy_sample(leaf * 1, targets, inplace_backward=True).loss * upstream
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_double_backward_is_refused(device):
    leaf, targets = _inputs(device)
    loss = cross_entropy_sample(leaf * 1, targets, inplace_backward=True).loss
    with pytest.raises(RuntimeError, match="cross_entropy_sample cannot be differentiated twice"):
        torch.autograd.grad(loss, leaf, create_graph=True)


def test_logits_may_be_a_strided_result_of_an_op(device):
    leaf, targets = _inputs(device)
    (expected,) = torch.autograd.grad(cross_entropy_sample(leaf, targets).loss, leaf)
    memory = torch.full((6, 2 * 53 + 5), torch.nan, device=device)
    logits = (memory * 1)[:, 3 : 3 + 2 * 53 : 2]
    logits = logits.copy_(leaf)
    (ours,) = torch.autograd.grad(cross_entropy_sample(logits, targets, inplace_backward=True).loss, leaf)
    torch.testing.assert_close(ours, expected)


def test_without_grad_the_logits_are_left_alone(device):
    leaf, targets = _inputs(device)
    before = leaf.detach().clone()
    with torch.no_grad():
        cross_entropy_sample(leaf * 1, targets, inplace_backward=True)
    cross_entropy_sample(leaf.detach(), targets, inplace_backward=True)
    assert torch.equal(leaf.detach(), before)


def test_a_leaf_is_refused(device):
    leaf, targets = _inputs(device)
    with pytest.raises(
        ValueError, match="logits is a leaf that requires grad, should be the result of an op"
    ):
        cross_entropy_sample(leaf, targets, inplace_backward=True)


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize(
    "view",
    [
        lambda leaf: leaf.view(3, 2, 53),
        lambda leaf: leaf.T.T,
        lambda leaf: leaf[2:].view(-1)[53:].view(3, 53),
        lambda leaf: leaf.unbind()[0],
        lambda leaf: leaf.view_as(leaf),
        _Identity.apply,
    ],
)
def test_a_view_of_a_leaf_is_refused(device, view):
    """A view shares the leaf's memory, so the parameter would become its own gradient."""
    leaf, _ = _inputs(device)
    before = leaf.detach().clone()
    logits = view(leaf)
    targets = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=device)
    with pytest.raises(
        ValueError, match="logits is a view of a leaf that requires grad, should be the result"
    ):
        cross_entropy_sample(logits, targets, inplace_backward=True)
    assert torch.equal(leaf.detach(), before)


@pytest.mark.parametrize(
    "make_leaf",
    [lambda data: data[0].requires_grad_(), lambda data: data.detach().view(-1, 53).requires_grad_()],
)
def test_a_view_of_a_leaf_that_is_itself_a_view_is_refused(device, make_leaf):
    leaf = make_leaf(torch.randn(2, 3, 53, device=device))
    targets = torch.zeros(leaf.numel() // 53, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match="logits is a view of a leaf that requires grad"):
        cross_entropy_sample(leaf.view(-1, 53), targets, inplace_backward=True)


@pytest.mark.parametrize("view", [lambda x: x.view(6, 53), lambda x: x[:2]])
def test_a_compiled_call_accepts_a_view_as_logits(device, view):
    leaf, _ = _inputs(device)
    logits = view(leaf * 1)
    targets = torch.zeros(len(logits), dtype=torch.int64, device=device)
    uniforms = torch.rand(len(logits), dtype=torch.float64).to(device)

    def loss(x, *, inplace):
        return cross_entropy_sample(x, targets, uniforms=uniforms, inplace_backward=inplace).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, inplace=True), loss(logits, inplace=False))


def test_logits_may_be_a_view_of_the_result_of_an_op(device):
    leaf, targets = _inputs(device)
    (expected,) = torch.autograd.grad(cross_entropy_sample(leaf, targets).loss, leaf)
    logits = (leaf * 1).view(2, 3, 53)
    loss = cross_entropy_sample(logits, targets.view(2, 3), inplace_backward=True).loss
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], expected)


# Pairs of pack and unpack.
HOOKS = {
    "identity": (lambda x: x, lambda x: x),
    "alias": (lambda x: x.detach(), lambda x: x.view(x.shape)),
    "data": (lambda x: x.data, lambda x: x),
    "copy in pack": (lambda x: x.clone(), lambda x: x),
    "copy in both": (lambda x: x.clone(), lambda x: x.clone()),
}


@pytest.mark.parametrize("hooks", [*HOOKS, "save_on_cpu"])
@pytest.mark.parametrize("upstream", [1.0, 3.0])
def test_a_second_backward_under_saved_tensor_hooks_raises(device, upstream, hooks):
    """Autograd does not check versions under these hooks."""
    leaf, targets = _inputs(device)
    (expected,) = torch.autograd.grad(upstream * cross_entropy_sample(leaf, targets).loss, leaf)
    graph = torch.autograd.graph
    with graph.save_on_cpu() if hooks == "save_on_cpu" else graph.saved_tensors_hooks(*HOOKS[hooks]):
        loss = upstream * cross_entropy_sample(leaf * 1, targets, inplace_backward=True).loss
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    torch.testing.assert_close(first, expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaf)


@pytest.mark.parametrize("hooks", ["identity", "alias"])
def test_another_write_to_the_logits_under_saved_tensor_hooks_raises(device, hooks):
    leaf, targets = _inputs(device)
    logits = leaf * 1
    with torch.autograd.graph.saved_tensors_hooks(*HOOKS[hooks]):
        first = cross_entropy_sample(logits, targets, inplace_backward=True).loss
        cross_entropy_sample(logits, targets, inplace_backward=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(first, leaf)


def test_the_gradient_in_a_checkpoint_that_computes_the_logits(device):
    leaf, targets = _inputs(device)
    uniforms = torch.rand(6, dtype=torch.float64).to(device)

    def loss(x):
        return cross_entropy_sample(x.square(), targets, uniforms=uniforms, inplace_backward=True).loss

    plain = cross_entropy_sample(leaf.square(), targets, uniforms=uniforms).loss
    (expected,) = torch.autograd.grad(plain, leaf)
    checkpointed = torch.utils.checkpoint.checkpoint(loss, leaf * 1, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(checkpointed, leaf)[0], expected)


def test_expanded_and_overlapping_logits_are_refused(device):
    leaf, targets = _inputs(device)
    overlapping = (leaf * 1).as_strided((6, 53), (1, 2))
    for logits in ((leaf * 1)[:1].expand(6, 53), overlapping):
        with pytest.raises(
            ValueError, match=r"logits has strides .*, should have no two elements in one place"
        ):
            cross_entropy_sample(logits, targets, inplace_backward=True)


def test_a_loss_per_row_is_refused(device):
    leaf, targets = _inputs(device)
    with pytest.raises(ValueError, match='inplace_backward is True with reduction="none", should be'):
        cross_entropy_sample(leaf * 1, targets, inplace_backward=True, reduction="none")
