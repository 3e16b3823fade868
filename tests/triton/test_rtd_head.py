"""The discriminator's linear head in Triton, in cases that need more rows than the conformance suite has."""

import pytest
import torch

from electra_kernels.reference import rtd_head as reference
from electra_kernels.triton import hidden_tiles, launch, rtd_head, tokens

DEVICE = "cpu" if launch.is_interpreted() else "cuda"
pytestmark = pytest.mark.skipif(
    not launch.is_interpreted() and not torch.cuda.is_available(),
    reason="kernels run on a GPU, or in Triton's interpreter: TRITON_INTERPRET=1",
)
OURS = rtd_head.linear_masked_bce, rtd_head.linear_masked_bce_backward
THEIRS = tuple(getattr(reference, function.__name__) for function in OURS)


def _inputs(rows, width, dtype=torch.float32):
    hidden = torch.randn(rows, width, device=DEVICE).to(dtype)
    weight = (torch.randn(width, device=DEVICE) / width**0.5).to(dtype)
    labels = (torch.rand(rows, device=DEVICE) < 0.3).long()
    return hidden, weight, torch.randn((), device=DEVICE).to(dtype), labels, torch.rand(rows, device=DEVICE)


def _results(functions, inputs, reduction, hidden_in_backward=None):
    """``hidden_in_backward`` replaces hidden in the call of the backward."""
    hidden, weight, bias, labels, mask = inputs
    forward, backward = functions
    outputs = forward(hidden, weight, bias, labels, mask, None, None, 0.1, reduction, True)
    loss, logits, _, denominator, *sums = outputs
    upstream = torch.linspace(0.5, 2, loss.numel(), device=DEVICE).reshape(loss.shape)
    hidden = hidden if hidden_in_backward is None else hidden_in_backward
    gradients = backward(
        upstream, hidden, weight, logits, labels, mask, None, denominator, *sums, 0.1, reduction
    )
    return *outputs, *gradients


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 100])
def test_programs_that_take_several_tiles_match_the_reference(monkeypatch, rows, reduction):
    """Given thousands of rows, a program has several tiles, and more rows than its loop over losses has lanes."""
    monkeypatch.setattr(hidden_tiles, "_TILE", 64)
    monkeypatch.setattr(rtd_head, "_LANES", 8)
    monkeypatch.setattr(hidden_tiles, "PROGRAMS", 4)
    inputs = _inputs(rows, 9)
    for ours, theirs in zip(_results(OURS, inputs, reduction), _results(THEIRS, inputs, reduction)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_sums_over_many_tiles_lose_no_digits(monkeypatch, reduction):
    """A program adds, as for 2^31 rows, 599 small slopes to a large one. Float32 would drop them."""
    monkeypatch.setattr(hidden_tiles, "_TILE", 16)
    monkeypatch.setattr(hidden_tiles, "PROGRAMS", 1)
    hidden, weight = torch.ones(600, 9, device=DEVICE), torch.zeros(9, device=DEVICE)
    assert hidden_tiles.partition_rows(hidden).tiles == 600
    labels, mask = torch.zeros(600, device=DEVICE), torch.full((600,), 1.8, device=DEVICE)
    mask[0] = 2.0**25
    forward, backward = OURS
    outputs = forward(hidden, weight, None, labels, mask, None, None, 0.0, reduction, True)
    loss, logits, _, denominator, *sums = outputs
    upstream, saved = torch.ones_like(loss), (hidden, weight, logits, labels, mask, None, denominator, *sums)
    _, grad_weight, grad_bias = backward(upstream, *saved, 0.0, reduction)
    slope = mask.double().sum() / 2
    # The gradients of a group of 64 tiles are added up in float32.
    torch.testing.assert_close(grad_weight.double(), slope.expand(9), rtol=5e-6, atol=0)
    torch.testing.assert_close(grad_bias.double(), slope, rtol=5e-6, atol=0)
    truth = mask.double().sum() * torch.tensor(2.0).double().log()
    torch.testing.assert_close(loss.double().sum(), truth, rtol=3e-7, atol=0)


@pytest.mark.parametrize("width", [256, 257, 768, 1000, 1024, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_several_pieces_match_the_reference(width, dtype):
    inputs = _inputs(21, width, dtype)
    for reduction in ("mean", "none"):
        for ours, theirs in zip(_results(OURS, inputs, reduction), _results(THEIRS, inputs, reduction)):
            torch.testing.assert_close(ours, theirs)


def test_every_row_belongs_to_one_program_and_every_column_to_one_piece():
    for width in (1, 2, 9, 255, 256, 257, 768, 1000, 1024, 4096, 5000, 16384):
        for count in (0, 1, 128, 129, 10**4, 10**6 + 1, 2**31 - 1, 2**32):
            for dtype in (torch.float32, torch.bfloat16):
                partition = hidden_tiles.partition_rows(torch.empty(count, width, dtype=dtype, device="meta"))
                reach = partition.programs * partition.tiles * partition.rows
                assert 1 <= partition.programs <= tokens.PROGRAMS
                assert reach - partition.tiles * partition.rows < max(count, 1) <= reach
                assert partition.is_wide or reach < 2**31
                assert partition.pieces * partition.width >= width > (partition.pieces - 1) * partition.width
                assert partition.rows * partition.pieces * partition.width <= 32 * 32 * partition.warps
                assert partition.pitch > width
                assert partition.partials * hidden_tiles.GROUP >= partition.programs * partition.tiles


def test_row_numbers_in_64_bits_give_the_same_bits(monkeypatch):
    inputs = _inputs(30, 9)
    narrow, partition_rows = _results(OURS, inputs, "none"), hidden_tiles.partition_rows
    monkeypatch.setattr(
        rtd_head, "partition_rows", lambda hidden: partition_rows(hidden)._replace(is_wide=True)
    )
    for wide, expected in zip(_results(OURS, inputs, "none"), narrow):
        assert torch.equal(wide, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_backward_does_not_read_hidden(reduction):
    inputs = _inputs(30, 9)
    poison = torch.full_like(inputs[0], torch.nan)
    expected = _results(OURS, inputs, reduction)
    for ours, theirs in zip(_results(OURS, inputs, reduction, poison), expected):
        assert torch.equal(ours, theirs)


def test_forward_launches_two_kernels_and_backward_one_or_two(monkeypatch):
    """The backward of reduction "none" has a second kernel, which joins the parameters' gradients."""
    launches = []
    run = launch.run

    def record(kernel, programs, *arguments, **options):
        launches.append(programs)
        run(kernel, programs, *arguments, **options)

    monkeypatch.setattr(launch, "run", record)
    for reduction, expected in (("mean", 3), ("none", 4)):
        _results(OURS, _inputs(30, 9), reduction)
        assert len(launches) == expected
        launches.clear()
