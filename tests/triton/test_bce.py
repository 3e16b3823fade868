"""Masked binary cross-entropy in Triton, in cases that need more tokens than the conformance suite has."""

import pytest
import torch
import triton
import triton.language as tl

from electra_kernels.reference import bce as reference
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
THEIRS = tuple(getattr(reference, function.__name__) for function in OURS)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("count", [15, 16, 17, 64, 65, 200])
def test_programs_that_take_several_blocks_match_the_reference(monkeypatch, count, reduction):
    """Given more than a million tokens, a program takes several blocks, and the last program takes fewer."""
    monkeypatch.setattr(bce, "_BLOCK", 16)
    monkeypatch.setattr(bce, "PROGRAMS", 4)
    inputs = _inputs((count,))
    for ours, theirs in zip(_results(OURS, inputs, reduction), _results(THEIRS, inputs, reduction)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sums_over_many_blocks_lose_no_digits(monkeypatch, reduction):
    """Each lane adds, as for 2^31 tokens, 127 small numbers to a large one. Float32 would drop them."""
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
def test_token_numbers_in_64_bits_give_the_same_bits(monkeypatch, reduction):
    inputs = _inputs((3, 41))
    narrow = _results(OURS, inputs, reduction)
    monkeypatch.setattr(bce, "_partition", lambda count: bce._Partition(1, 1, is_wide=True))
    for wide, expected in zip(_results(OURS, inputs, reduction), narrow):
        assert torch.equal(wide, expected)


def test_every_token_belongs_to_one_program():
    for count in (0, 1, 1023, 1024, 1025, 2**20, 2**20 + 1, 3 * 2**20 + 7, 2**31 - 2**20, 2**31 - 1, 2**33):
        partition = bce._partition(count)
        reach = partition.programs * partition.tiles * bce._BLOCK
        assert 1 <= partition.programs <= tokens.PROGRAMS
        assert reach - partition.tiles * bce._BLOCK < max(count, 1) <= reach
        assert partition.is_wide or reach < 2**31


def test_forward_launches_two_kernels_and_backward_one(monkeypatch):
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


def test_collapse_merges_dimensions_that_are_contiguous_in_all_tensors():
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
def _exp_neg_abs(x, out, block: tl.constexpr):
    offsets = tl.arange(0, block)
    tl.store(out + offsets, tokens.exp_neg_abs(tl.load(x + offsets)))


def test_exp_neg_abs_is_accurate_over_its_whole_range():
    """The error is at most 3 ulp for normal results, and one step of the smallest denormal number is added to that."""
    x = torch.linspace(-112, 112, 4096, device=DEVICE)
    x[:4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0])
    out = torch.empty_like(x)
    launch.run(_exp_neg_abs, 1, x, out, num_warps=4, block=4096)
    truth = torch.exp(-x.double().abs())
    error = (out.double() - truth).abs()[~x.isnan()]
    assert bool((error <= 3 * 2.0**-24 * truth[~x.isnan()] + 2.0**-149).all())
    assert out[:4].nan_to_num(nan=7.0).tolist() == [0, 0, 7, 1]
