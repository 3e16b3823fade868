"""The per-token losses at sizes where kernels split their work: whole and partial vectors, rows of one warp and of
several, and more tokens than all blocks take at once."""

import pytest
import torch

from electra_kernels import linear_masked_bce, masked_bce_with_logits

from . import oracle
from .test_rtd_head import assert_loss_and_gradients, make_inputs

# Whole 16-byte vectors of 16-bit numbers: one vector, then one to four passes of a warp, and 1536, which does not fit
# into a warp's registers. In 264 and 1000 the last pass is partial.
WIDTHS = (8, 256, 264, 512, 768, 1000, 1024, 1536)


@pytest.mark.parametrize("width", WIDTHS)
def test_loss_and_gradients_of_rows_of_whole_vectors(device, dtype, width):
    assert_loss_and_gradients(*make_inputs(dtype, device, width, (2, 19)))


@pytest.mark.parametrize("width", [264, 1536])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_masked_rows_of_whole_vectors_may_hold_any_numbers(device, dtype, width, reduction):
    (hidden, weight, bias), labels, mask = make_inputs(dtype, device, width, (2, 19))
    mask[0, :4], hidden[0, :2], hidden[0, 3, -1] = 0, torch.nan, torch.inf
    leaves = [value.requires_grad_() for value in (hidden, weight, bias)]
    ours = linear_masked_bce(*leaves, labels, mask, reduction=reduction)
    ours.loss.sum().backward()
    assert bool(ours.loss.isfinite().all())
    assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves)
    assert not hidden.grad[0, :4].any()


# A pitch that is no multiple of a vector; a pitch that is one, with the first column aligned, unaligned, and aligned
# further in.
@pytest.mark.parametrize(("start", "pitch"), [(0, 257), (0, 264), (1, 264), (8, 264)])
def test_hidden_may_be_columns_of_a_wider_tensor(device, dtype, start, pitch):
    """Rows may or may not begin at multiples of 16 bytes."""
    (wide, weight, bias), labels, mask = make_inputs(dtype, device, pitch, (2, 19))
    hidden, weight = wide[..., start : start + 256], weight[:256]
    expected = assert_loss_and_gradients((hidden.clone(), weight.clone(), bias), labels, mask)
    ours = linear_masked_bce(hidden, weight, bias, labels, mask)
    torch.testing.assert_close(ours.logits, expected.logits)
    torch.testing.assert_close(ours.loss, expected.loss)


# Rows of one vector and rows that are narrower than one.
@pytest.mark.parametrize(("width", "reduction"), [(8, "mean"), (1, "mean"), (1, "none")])
def test_loss_and_gradients_of_more_rows_than_all_blocks_take_at_once(device, width, reduction):
    shape = (2, 8_300)
    hidden = torch.randn(*shape, width, device=device)
    leaves = [hidden, torch.randn(width, device=device), torch.randn(1, device=device)]
    for leaf in leaves:
        leaf.requires_grad_()
    labels = torch.rand(shape, device=device) < 0.3
    mask = torch.rand(shape, device=device) < 0.8
    ours = linear_masked_bce(*leaves, labels, mask, reduction=reduction)
    gradients = torch.autograd.grad(ours.loss.sum(), leaves)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logits = doubles[0] @ doubles[1] + doubles[2]
    truth = oracle.binary_cross_entropy(logits, labels, mask, reduction=reduction)
    truth.sum().backward()
    torch.testing.assert_close(ours.loss.double(), truth, rtol=1e-5, atol=1e-6)
    for gradient, double in zip(gradients, doubles):
        floor = 1e-5 * float(double.grad.abs().max())
        torch.testing.assert_close(gradient.double(), double.grad, rtol=1e-4, atol=floor)
    assert int(ours.counts.sum()) == int(mask.sum())


# One whole block of 1,024 tokens; a ragged second one; a last block with one token; more blocks than run at once.
@pytest.mark.parametrize("count", [1024, 1031, 3 * 1024 + 1, 1024 * 1024 + 9])
def test_the_last_tokens_of_a_block_are_counted(device, count):
    logits = torch.randn(count, device=device)
    labels = torch.rand(count, device=device) < 0.3
    op = torch.ops.electra_kernels.masked_bce_with_logits
    loss, counts, denominator = op(logits, labels, None, None, None, 0.0, "mean")
    losses = oracle.binary_cross_entropy(logits.double(), labels, reduction="none")
    torch.testing.assert_close(loss.double(), losses.mean(), rtol=1e-6, atol=0)
    assert counts.tolist() == oracle.confusion_counts(logits > 0, labels)
    assert denominator.item() == count


@pytest.mark.parametrize("layout", ["rows apart", "transposed"])
def test_rows_may_end_within_a_vector(device, dtype, layout):
    values, labels = torch.randn(5, 43).to(device, dtype), torch.rand(5, 43, device=device) < 0.3
    mask = torch.rand(5, 1, device=device) < 0.8
    mask[:2] = torch.tensor([[True], [False]])
    view = torch.full((5, 48), torch.nan, device=device, dtype=dtype)[:, :43]
    view = view if layout == "rows apart" else torch.empty(43, 5, device=device, dtype=dtype).T
    view.copy_(values)
    leaves = [values.requires_grad_(), view.detach().requires_grad_()]
    for reduction in ("mean", "none"):
        one, other = (masked_bce_with_logits(leaf, labels, mask, reduction=reduction) for leaf in leaves)
        torch.testing.assert_close(one, other)
        gradients = torch.autograd.grad((one.sum() + other.sum()), leaves)
        torch.testing.assert_close(*gradients)


def test_more_dimensions_than_a_kernel_supports(device):
    """Ten dimensions of size 2, in an order that lets no two of them be merged."""
    logits = torch.randn([2] * 10, device=device).permute(9, 0, 8, 1, 7, 2, 6, 3, 5, 4)
    labels = torch.rand(logits.shape, device=device) < 0.3
    ours = masked_bce_with_logits(logits, labels)
    torch.testing.assert_close(ours, oracle.binary_cross_entropy(logits, labels))
    hidden, weight = torch.stack([logits, -logits], -1), torch.tensor([0.5, 0.25], device=device)
    head = linear_masked_bce(hidden, weight, None, labels)
    torch.testing.assert_close(head.loss, oracle.binary_cross_entropy(logits * 0.25, labels))
