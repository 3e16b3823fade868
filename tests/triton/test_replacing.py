"""Replacement in Triton, in cases that need longer rows than the conformance suite has."""

import pytest
import torch

from electra_kernels.reference import replacing as reference
from electra_kernels.triton import launch, replacing

DEVICE = "cpu" if launch.is_interpreted() else "cuda"
pytestmark = pytest.mark.skipif(
    not launch.is_interpreted() and not torch.cuda.is_available(),
    reason="kernels run on a GPU, or in Triton's interpreter: TRITON_INTERPRET=1",
)


@pytest.mark.parametrize(("length", "slots"), [(15, 3), (16, 16), (50, 40)])
def test_rows_of_several_blocks_match_the_reference(monkeypatch, length, slots):
    monkeypatch.setattr(replacing, "_BLOCK", 16)
    ids = torch.randint(5, 1000, (3, length), device=DEVICE)
    positions = torch.rand(3, length, device=DEVICE).argsort(-1)[:, :slots].contiguous()
    tokens = torch.randint(-1, 1000, (3, slots), device=DEVICE)
    expected = reference.replace_tokens(ids, positions, tokens)
    for ours, theirs in zip(replacing.replace_tokens(ids, positions, tokens), expected):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("position", [-1, 20, 2**40])
def test_positions_out_of_range_write_nothing(position):
    ids = torch.randint(5, 1000, (3, 20), device=DEVICE)
    positions = torch.full((3, 1), position, device=DEVICE)
    replaced, is_replaced = replacing.replace_tokens(ids, positions, torch.ones_like(positions))
    assert torch.equal(replaced, ids)
    assert not is_replaced.any()
