"""What "mean" divides by: its own count, nothing, or a count that batches share."""

import pytest
import torch

from electra_kernels import (
    cross_entropy_sample,
    linear_cross_entropy_sample,
    linear_masked_bce,
    masked_bce_with_logits,
)

from .cases import build
from .oracle import IGNORED

LOSSES = {
    "cross_entropy_sample": cross_entropy_sample,
    "linear_cross_entropy_sample": linear_cross_entropy_sample,
    "masked_bce_with_logits": masked_bce_with_logits,
    "linear_masked_bce": linear_masked_bce,
}
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


def test_ranks_whose_gradients_are_averaged_multiply_their_loss_by_their_number(device, name):
    """As DistributedDataParallel averages: with unequal counts the mean of means would be another gradient."""
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
def test_nothing_unmasked_gives_zero_never_nan(device, dtype, name, reduction):
    case = build(name, device, dtype)
    leaves = case.leaves()
    loss = _loss(case, **leaves, **_without_targets(case), reduction=reduction)
    loss.sum().backward()
    assert not loss.any()
    assert all(not leaf.grad.any() for leaf in leaves.values())


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_normalizer_of_zero_is_nothing_unmasked(device, name, as_tensor):
    case = build(name, device)
    leaves = case.leaves()
    loss = _loss(case, **leaves, normalizer=torch.zeros((), device=device) if as_tensor else 0)
    loss.backward()
    assert loss.item() == 0
    assert all(not leaf.grad.any() for leaf in leaves.values())


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
    """19,713 is 19,712 in bfloat16."""
    case = build(name, device, torch.bfloat16)
    exact = _loss(case, reduction="sum").double() / 19_713
    with torch.autocast(device.type, torch.bfloat16):
        for normalizer in (19_713, torch.tensor(19_713, device=device)):
            loss = _loss(case, normalizer=normalizer)
            torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
