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
