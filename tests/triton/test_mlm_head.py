"""Cross-entropy in Triton, in cases that need more and longer rows than the conformance suite has."""

import pytest
import torch

from electra_kernels import draw_uniforms
from electra_kernels.reference import mlm_head as reference
from electra_kernels.reference.sampling import log_sum_exp
from electra_kernels.triton import gradients, launch, mlm_head, reduce

DEVICE = "cpu" if launch.is_interpreted() else "cuda"
IGNORED = -100
pytestmark = pytest.mark.skipif(
    not launch.is_interpreted() and not torch.cuda.is_available(),
    reason="kernels run on a GPU, or in Triton's interpreter: TRITON_INTERPRET=1",
)


def _inputs(rows, vocabulary, dtype=torch.float32):
    logits = (3 * torch.randn(rows, vocabulary, device=DEVICE)).to(dtype)
    targets = torch.randint(0, vocabulary, (rows,), device=DEVICE)
    targets[1] = IGNORED
    return logits, targets, draw_uniforms((rows,), device=DEVICE)


@pytest.mark.parametrize("multiprocessors", [1, 5, 100])
@pytest.mark.parametrize("vocabulary", [1500, 9000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_scanned_in_parts_give_the_same_bits(monkeypatch, dtype, vocabulary, multiprocessors):
    """Another kernel writes the gradient of rows that are scanned in parts."""
    logits, *rest = _inputs(3, vocabulary, dtype)
    results = []
    for number, warps in ((0, 8), (multiprocessors, 1)):
        monkeypatch.setattr(launch, "multiprocessors", lambda device, number=number: number)
        monkeypatch.setattr(mlm_head, "_WARPS", warps)
        gradient = logits.clone()
        outputs = mlm_head.cross_entropy_sample_(gradient, *rest, None, IGNORED, "mean", 0.01, 0.7, True)
        results.append((*outputs, gradient))
    for ours, theirs in zip(*results):
        assert torch.equal(ours, theirs)


def _chunk(rows, vocabulary, dtype):
    """Logits in a padded buffer like that of `chunks_of_logits`, targets and uniforms."""
    logits, targets, uniforms = _inputs(rows, vocabulary, dtype)
    padded = torch.full((rows, vocabulary + -vocabulary % 64), -torch.inf, device=DEVICE, dtype=dtype)
    padded[:, :vocabulary] = logits
    return padded, targets, uniforms


@pytest.mark.parametrize("vocabulary", [37, 1021, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_padding_of_a_chunk_stays_minus_infinity(dtype, vocabulary):
    """The last vector of a row reads it. Any other value would give the next chunk's rows one more token."""
    padded, *rows = _chunk(3, vocabulary, dtype)
    expected, ours = padded.clone()[:, :vocabulary], padded[:, :vocabulary]
    recomputed, options = padded.clone(), (IGNORED, 0.01, 1.0, False, True)
    theirs, results = (mlm_head._new_results(rows[0]) for _ in range(2))
    reference.cross_entropy_rows_(expected, None, *rows, *options, *theirs)
    mlm_head.cross_entropy_rows_(ours, *rows, *options, *results)
    for index in (0, 1, 2):
        torch.testing.assert_close(results[index], theirs[index])
    torch.testing.assert_close(ours, expected)
    mlm_head.cross_entropy_rows_backward_(recomputed[:, :vocabulary], rows[0], results[4], IGNORED, 0.01)
    assert torch.equal(recomputed, padded)
    assert bool((padded[:, vocabulary:] == -torch.inf).all())


@pytest.mark.parametrize("target", [-1, 1500, 2**40])
def test_a_target_out_of_range_makes_the_loss_nan_and_is_never_written(target):
    """On a GPU, values are not checked before the kernel runs."""
    logits, targets, uniforms = _inputs(3, 1500)
    targets[0] = target
    gradient = logits.clone()
    loss, tokens, is_top1, *_ = mlm_head.cross_entropy_sample_(
        gradient, targets, uniforms, None, IGNORED, "sum", 0.0, 1.0, True
    )
    assert bool(loss.isnan())
    assert not is_top1[0]
    assert 0 <= int(tokens[0]) < 1500
    torch.testing.assert_close(gradient[0], logits[0].softmax(-1))


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_are_reduced_over_many_blocks(count, reduction):
    losses = torch.rand(count, device=DEVICE)
    targets = torch.randint(-1, 3, (count,), device=DEVICE)
    loss, denominator, reciprocal = reduce.reduce_rows(losses, targets, None, -1, reduction)
    counted = int((targets != -1).sum()) if reduction == "mean" else 1
    assert denominator.item() == counted
    expected = 1 / counted if counted else 0
    assert reciprocal.item() == pytest.approx(expected)
    assert loss.item() == pytest.approx(losses.double().sum().item() * expected)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_scaling_covers_more_blocks_than_programs(monkeypatch, scale):
    monkeypatch.setattr(launch, "multiprocessors", lambda device: 1)
    values = torch.randn(7, 9000, device=DEVICE)
    gradient = values.clone()
    mlm_head.scale_gradient_(gradient, torch.tensor(scale, device=DEVICE))
    assert torch.equal(gradient, values * scale)
    per_row = torch.linspace(1, 2, 7, device=DEVICE)
    gradient = values.clone()
    mlm_head.scale_gradient_(gradient, per_row)
    assert torch.equal(gradient, values * per_row[:, None])


def test_a_gradient_of_several_blocks_with_any_upstream_matches_the_reference():
    logits, targets, _ = _inputs(3, 2 * gradients._BLOCK + 5)
    upstream, denominator = torch.tensor([1.0, torch.nan, -2.0], device=DEVICE), torch.tensor(3.0).double()
    saved = (logits, targets, log_sum_exp(logits.float()), denominator.to(DEVICE))
    arguments = (upstream, torch.randn(3, device=DEVICE), *saved, IGNORED, 0.01)
    expected = reference.cross_entropy_sample_backward(*arguments)
    torch.testing.assert_close(mlm_head.cross_entropy_sample_backward(*arguments), expected)
