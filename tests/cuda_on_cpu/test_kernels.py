"""Paths of the CUDA kernels that need larger sizes than the conformance suite has."""

import pytest
import torch

import electra_kernels as ek


@pytest.mark.parametrize("length", [1025, 3000, 385_024, 385_025, 392_193, 393_216, 400_001])
def test_masking_of_rows_with_more_words_than_a_warp_has_lanes_or_shared_memory_holds(length):
    torch.manual_seed(0)
    ids = torch.randint(5, 1000, (2, length))
    arguments = (ids, torch.rand(2, length) < 0.7)
    options = {"mask_token_id": 3, "vocab_size": 1000, "uniforms": ek.draw_uniforms((2, 40, 2))}
    options["max_predictions"] = 40
    with ek.use_backend("cuda"):
        ours = ek.mask_tokens(*arguments, **options)
    with ek.use_backend("reference"):
        expected = ek.mask_tokens(*arguments, **options)
    for one, other in zip(ours, expected):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("inplace", "vocabulary", "forward", "backward"),
    [
        (False, 3000, 2, 1),  # denominator, rows and sum of the losses; gradient
        (True, 3000, 2, 1),  # denominator, rows with gradient and sum; the factor of the gradient
        (True, 40_000, 3, 1),  # rows too long to be held: denominator, rows and sum, gradient; factor
    ],
)
def test_launches_of_the_loss_and_its_gradient(inplace, vocabulary, forward, backward):
    launches = torch.ops.cuda_on_cpu.launches
    leaf = torch.randn(8, vocabulary).requires_grad_()
    with ek.use_backend("cuda"):
        logits = leaf * 1
        before = launches()
        loss = ek.cross_entropy_sample(logits, torch.arange(8), inplace_backward=inplace).loss
        between = launches()
        loss.backward()
    assert (between - before, launches() - between) == (forward, backward)
