"""Masked binary cross-entropy in Triton: what the conformance suite, at its few tokens, does not reach."""

import pytest
import torch
import triton
import triton.language as tl

from electra_kernels import reference
from electra_kernels.triton import bce, launch, tokens

DEVICE = "cpu" if launch.is_interpreted() else "cuda"
pytestmark = pytest.mark.skipif(
    not launch.is_interpreted() and not torch.cuda.is_available(),
    reason="kernels run on a GPU, or in Triton's interpreter: TRITON_INTERPRET=1",
)


def _inputs(shape):
    logits = 4 * torch.randn(shape, device=DEVICE)
    labels = (torch.rand(shape, device=DEVICE) < 0.3).long()
    return logits, labels, torch.rand(shape, device=DEVICE), torch.rand(shape, device=DEVICE) * 3


def _results(functions, inputs, reduction):
    forward, backward = functions
    outputs = forward(*inputs, None, 0.1, reduction)
    upstream = torch.linspace(-1, 2, outputs[0].numel(), device=DEVICE).reshape(outputs[0].shape)
    return *outputs, backward(upstream, *inputs, outputs[2], 0.1)


OURS = bce.masked_bce_with_logits, bce.masked_bce_with_logits_backward
THEIRS = tuple(reference.IMPLEMENTATIONS[function.__name__] for function in OURS)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("count", [15, 16, 17, 64, 65, 200])
def test_more_blocks_than_programs(monkeypatch, count, reduction):
    """As from a million tokens on: a program has several blocks, and the last one fewer than the others."""
    monkeypatch.setattr(bce, "_BLOCK", 16)
    monkeypatch.setattr(bce, "PROGRAMS", 4)
    inputs = _inputs((count,))
    for ours, theirs in zip(_results(OURS, inputs, reduction), _results(THEIRS, inputs, reduction)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sums_over_many_blocks_lose_no_digits(monkeypatch, reduction):
    """As of 2^31 tokens: each lane has a large number, and then 127 that float32 would not add to it."""
    monkeypatch.setattr(bce, "_BLOCK", 16)
    monkeypatch.setattr(bce, "PROGRAMS", 1)
    logits, mask = torch.full((2048,), 0.378, device=DEVICE), torch.full((2048,), 0.9, device=DEVICE)
    mask[:16] = 2.0**24
    arguments = (logits, torch.zeros_like(logits), mask, None, None, 0.0, reduction)
    loss, _, denominator = bce.masked_bce_with_logits(*arguments)
    losses = torch.nn.functional.softplus(logits.double()) * mask
    truth = losses.sum() / (mask.double().sum() if reduction == "mean" else 1)
    torch.testing.assert_close(loss.double(), truth, rtol=3e-7, atol=0)
    if reduction == "mean":
        torch.testing.assert_close(denominator, mask.double().sum(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_numbers_of_tokens_in_64_bits(monkeypatch, reduction):
    inputs = _inputs((3, 41))
    narrow = _results(OURS, inputs, reduction)
    monkeypatch.setattr(bce, "_split", lambda count: bce._Split(1, 1, is_wide=True))
    for wide, expected in zip(_results(OURS, inputs, reduction), narrow):
        assert torch.equal(wide, expected)


def test_every_token_belongs_to_one_program():
    for count in (0, 1, 1023, 1024, 1025, 2**20, 2**20 + 1, 3 * 2**20 + 7, 2**31 - 2**20, 2**31 - 1, 2**33):
        split = bce._split(count)
        reach = split.programs * split.tiles * bce._BLOCK
        assert 1 <= split.programs <= tokens.PROGRAMS
        assert reach - split.tiles * bce._BLOCK < max(count, 1) <= reach
        assert split.is_wide or reach < 2**31


def test_two_launches_forward_and_one_backward(monkeypatch):
    launches = []
    run = launch.run

    def record(kernel, programs, *arguments, **options):
        launches.append(programs)
        run(kernel, programs, *arguments, **options)

    monkeypatch.setattr(launch, "run", record)
    for reduction in ("mean", "none"):
        _results(OURS, _inputs((3, 41)), reduction)
        assert len(launches) == 3
        launches.clear()


def test_dimensions_that_continue_each_other_in_all_tensors_are_one():
    logits, token_mask = torch.zeros(6, 7, 5), torch.zeros(6, 7, 1).expand(6, 7, 5)
    assert tokens.collapse(logits.shape, logits, None) == ((1,), [(1,), (0,)])
    assert tokens.collapse(logits.shape, logits, token_mask) == ((1, 5), [(5, 1), (1, 0)])
    assert tokens.collapse(logits.shape, logits.mT.contiguous().mT) == ((1, 7, 5), [(35, 1, 7)])
    assert tokens.collapse(logits.shape, torch.zeros(()).expand(6, 7, 5)) == ((1,), [(0,)])
    assert tokens.collapse((), torch.zeros(())) == ((1,), [(0,)])
    assert tokens.collapse((3, 0), torch.zeros(3, 0)) == ((1,), [(1,)])
    assert tokens.collapse((6, 1), torch.zeros(6, 7)[:, :1]) == ((1,), [(7,)])
    assert tokens.collapse((1, 1), torch.zeros(1, 1), None) == ((1,), [(1,), (0,)])


@triton.jit
def _decay(x, out, block: tl.constexpr):
    place = tl.arange(0, block)
    tl.store(out + place, tokens.decay_of(tl.load(x + place)))


def test_exp_of_minus_the_magnitude():
    """To the last place over the whole range, numbers below the smallest normal one too."""
    x = torch.linspace(-112, 112, 4096, device=DEVICE)
    x[:4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0])
    out = torch.empty_like(x)
    launch.run(_decay, 1, x, out, num_warps=4, block=4096)
    truth = torch.exp(-x.double().abs())
    error = (out.double() - truth).abs()[~x.isnan()]
    assert bool((error <= 3 * 2.0**-24 * truth[~x.isnan()] + 2.0**-149).all())
    assert out[:4].nan_to_num(nan=7.0).tolist() == [0, 0, 7, 1]
