"""The denominator of "mean": the op's own count, which may be zero, or a normalizer that batches share."""

import pytest
import torch

from electra_kernels import linear_masked_bce

from .cases import LOSSES, build, skip_unless_values_are_checked
from .oracle import IGNORED, assert_equal

# Tensors with one entry per row of the batch. The weight of linear_masked_bce has none.
PER_ROW = ("logits", "hidden", "targets", "labels", "mask", "pos_weight", "uniforms")


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


def _loss(case, **changes):
    result = case(**changes)
    return result if isinstance(result, torch.Tensor) else result.loss


def _without_targets(case):
    if "targets" in case.tensors:
        return {"targets": torch.full_like(case.tensors["targets"], IGNORED)}
    return {"mask": torch.zeros_like(case.tensors["mask"])}


def _count(case):
    if "targets" in case.tensors:
        return float((case.tensors["targets"] != IGNORED).sum())
    return float(case.tensors["mask"].double().sum())


def _gradients(case, slices, **options):
    """The loss and the gradients, summed over one call for each slice of the batch."""
    leaves = case.leaves()
    total = 0.0
    for part in slices:
        tensors = {**case.tensors, **leaves}
        rows = {key: value[part] for key, value in tensors.items() if key in PER_ROW}
        if case.function is linear_masked_bce:
            rows["weight"] = tensors["weight"]
        loss = _loss(case, **{**tensors, **rows}, **options)
        loss.backward()
        total += loss.item()
    return total, [leaf.grad for leaf in leaves.values()]


@pytest.mark.parametrize("kind", ["number", "tensor", "integer tensor"])
def test_micro_batches_with_one_normalizer_add_up_to_the_big_batch(device, name, kind):
    case = build(name, device, batch=6)
    normalizer = _count(case)
    if kind != "number":
        normalizer = torch.tensor(normalizer, device=device, dtype=torch.float64)
    if kind == "integer tensor":
        normalizer = normalizer.ceil().long()
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    loss, gradients = _gradients(case, parts, normalizer=normalizer)
    whole_loss, whole = _gradients(case, [slice(None)])
    factor = 1.0 if kind != "integer tensor" else _count(case) / normalizer.item()
    assert loss == pytest.approx(whole_loss * factor, rel=1e-5)
    for ours, theirs in zip(gradients, whole):
        torch.testing.assert_close(ours, theirs * factor, rtol=1e-4, atol=1e-6)


def test_ranks_that_average_gradients_divide_the_shared_normalizer_by_their_number(device, name):
    """DistributedDataParallel averages. With unequal counts, the mean of means would be another gradient."""
    case, world = build(name, device, batch=6), 3
    ranks = [slice(0, 1), slice(1, 4), slice(4, 6)]
    shares = [_gradients(case, [rank], normalizer=_count(case) / world)[1] for rank in ranks]
    averages = [torch.stack(gradients).mean(0) for gradients in zip(*shares)]
    _, whole = _gradients(case, [slice(None)])
    for ours, theirs in zip(averages, whole):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_mean_is_the_sum_over_the_count(device, name):
    case = build(name, device)
    mean, total = _loss(case), _loss(case, reduction="sum")
    none = _loss(case, reduction="none")
    torch.testing.assert_close(mean, total / _count(case))
    torch.testing.assert_close(total, none.sum())
    torch.testing.assert_close(_loss(case, normalizer=7.5), total / 7.5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_with_nothing_unmasked_has_loss_and_gradient_zero(device, dtype, name, reduction):
    case = build(name, device, dtype)
    leaves = case.leaves()
    loss = _loss(case, **leaves, **_without_targets(case), reduction=reduction)
    loss.sum().backward()
    assert not loss.any()
    assert all(not leaf.grad.any() for leaf in leaves.values())


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        *[(value, torch.int64) for value in (0, -3)],
        *[
            (value, dtype)
            for value in (0.0, -3.0, torch.inf, -torch.inf, torch.nan)
            for dtype in (None, torch.float32, torch.float64)
        ],
    ],
)
def test_a_normalizer_that_is_not_positive_and_finite_is_refused(device, name, value, dtype):
    """An infinite normalizer would make loss and gradient 0."""
    if dtype is not None:
        skip_unless_values_are_checked(device)
    case = build(name, device)
    logits = case.tensors.get("logits")
    before = None if logits is None else logits.clone()
    normalizer = value if dtype is None else torch.tensor(value, device=device, dtype=dtype)
    with pytest.raises(ValueError, match=r"^normalizer is .*, should be a positive, finite number$"):
        _loss(case, normalizer=normalizer)
    assert before is None or torch.equal(logits, before)


def test_a_normalizer_is_refused_before_the_logits_are_overwritten(device):
    skip_unless_values_are_checked(device)
    case = build("cross_entropy_sample", device)
    logits = case.tensors["logits"].requires_grad_() * 1
    before = logits.detach().clone()
    with pytest.raises(ValueError, match="normalizer is inf"):
        case(logits=logits, normalizer=torch.tensor(torch.inf, device=device), inplace_backward=True)
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.complex64])
def test_a_normalizer_of_a_dtype_that_cannot_hold_counts_is_refused(device, name, dtype):
    """A count of 70,000 is infinite in float16, and 69,632 in bfloat16."""
    normalizer = torch.tensor(1.0, device=device).to(dtype)
    with pytest.raises(TypeError, match=rf"^normalizer\.dtype is {dtype}, should be torch\.float32 or"):
        _loss(build(name, device), normalizer=normalizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.int32])
def test_a_count_may_change_between_forward_and_backward(device, name, dtype):
    """The op keeps its own copy of the normalizer."""
    case = build(name, device)
    normalizer = torch.tensor(7, device=device, dtype=dtype)
    results = []
    for changes in (False, True):
        leaves = case.leaves()
        loss = _loss(case, **leaves, normalizer=normalizer)
        if changes:
            normalizer += 5
        loss.backward()
        results.append([leaf.grad for leaf in leaves.values()])
    assert_equal(*results)


@pytest.mark.parametrize("empty", [{"batch": 0}, {"slots": 0}])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_an_empty_batch_has_loss_and_gradient_zero(device, dtype, name, empty, reduction):
    case = build(name, device, dtype, **empty)
    leaves = case.leaves()
    loss = _loss(case, **leaves, reduction=reduction)
    loss.sum().backward()
    assert loss.numel() == (0 if reduction == "none" else 1)
    assert not loss.any()
    for key, leaf in leaves.items():
        assert leaf.grad.shape == case.tensors[key].shape
        assert not leaf.grad.any()


def test_autocast_does_not_round_the_normalizer(device, name):
    """In bfloat16, 19,713 would become 19,712."""
    case = build(name, device, torch.bfloat16)
    exact = _loss(case, reduction="sum").double() / 19_713
    with torch.autocast(device.type, torch.bfloat16):
        for normalizer in (19_713, torch.tensor(19_713, device=device)):
            loss = _loss(case, normalizer=normalizer)
            torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
