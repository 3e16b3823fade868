"""Masking in Triton, in cases that need longer rows than the conformance suite has."""

import pytest
import torch

from electra_kernels import draw_uniforms
from electra_kernels.reference import masking as reference
from electra_kernels.triton import launch, masking

DEVICE = "cpu" if launch.is_interpreted() else "cuda"
pytestmark = pytest.mark.skipif(
    not launch.is_interpreted() and not torch.cuda.is_available(),
    reason="kernels run on a GPU, or in Triton's interpreter: TRITON_INTERPRET=1",
)


def _options(probability):
    """mask_token_id, vocab_size, probability, mask_fraction and random_fraction."""
    return 3, 1000, probability, 0.7, 0.2


def _inputs(rows, length, slots):
    ids = torch.randint(5, 1000, (rows, length), device=DEVICE)
    maskable = torch.rand(rows, length, device=DEVICE) < 0.8
    return ids, maskable, draw_uniforms((rows, slots, 2), device=DEVICE)


@pytest.mark.parametrize(("length", "slots"), [(15, 3), (16, 16), (17, 17), (50, 40), (50, 60)])
@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_rows_of_several_blocks_match_the_reference(monkeypatch, length, slots, probability):
    """The counts of one block continue in the next, as in rows of more than a thousand tokens."""
    monkeypatch.setattr(masking, "_BLOCK", 16)
    inputs = _inputs(4, length, slots)
    expected = reference.mask_tokens(*inputs, *_options(probability))
    for ours, theirs in zip(masking.mask_tokens(*inputs, *_options(probability)), expected):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bad", [torch.nan, -3.0, 1.0, 1e30])
def test_invalid_uniforms_pick_distinct_maskable_tokens(bad):
    """On a GPU, values are not checked before the kernel runs."""
    ids, maskable, uniforms = _inputs(3, 30, 12)
    uniforms[..., 0] = bad
    masked, positions, targets = masking.mask_tokens(ids, maskable, uniforms, *_options(0.5))
    used = targets >= 0
    assert torch.equal(targets[used], ids.gather(1, positions)[used])
    assert bool(maskable.gather(1, positions)[used].all())
    for row in range(3):
        assert len(set(positions[row][used[row]].tolist())) == int(used[row].sum())
    assert bool(((masked >= 0) & (masked < 1000)).all())


def test_masking_launches_one_kernel(monkeypatch):
    launches = []
    run = launch.run

    def record(kernel, programs, *arguments, **options):
        launches.append(programs)
        run(kernel, programs, *arguments, **options)

    monkeypatch.setattr(launch, "run", record)
    masking.mask_tokens(*_inputs(5, 30, 12), *_options(0.5))
    assert launches == [5]
