"""The uniforms of a row: uniform, independent, 53 bits fine, and the same in every batch."""

import torch
from scipy import stats

from electra_kernels.row_uniforms import row_uniforms


def test_numbers_are_uniform_in_all_53_bits():
    numbers = row_uniforms(torch.arange(2_000), 50, seed=3)
    assert numbers.dtype == torch.float64
    assert 0 <= numbers.min() < numbers.max() < 1
    assert stats.kstest(numbers.flatten(), "uniform").pvalue > 1e-3
    low = (numbers.flatten() * 2**53).long() & 0xFF
    assert stats.chisquare(torch.bincount(low, minlength=256)).pvalue > 1e-3


def test_rows_slots_and_seeds_are_independent():
    numbers = row_uniforms(torch.arange(5_000), 12, seed=3)
    others = row_uniforms(torch.arange(5_000), 12, seed=4)
    correlation = torch.corrcoef(torch.cat([numbers, others], 1).T) - torch.eye(24)
    assert correlation.abs().max() < 5 / 5_000**0.5
    neighbours = torch.corrcoef(torch.stack([numbers[1:].flatten(), numbers[:-1].flatten()]))
    assert neighbours[0, 1].abs() < 5 / numbers.numel() ** 0.5
    assert len(numbers.unique()) == numbers.numel()


def test_a_row_has_the_same_numbers_in_every_batch_of_every_width():
    everything = row_uniforms(torch.arange(10), 9, seed=-1)
    assert torch.equal(row_uniforms(torch.tensor([7, 3]), 4, seed=-1), everything[[7, 3], :4])
    assert row_uniforms(torch.arange(0), 4, seed=0).shape == (0, 4)
    far = row_uniforms(torch.tensor([2**62]), 4, seed=2**62)
    assert ((far >= 0) & (far < 1)).all()


def test_numbers_equal_those_of_the_published_generator():
    """Row 0 with seed 0 starts from 0 like SplitMix64 with seed 0, whose first output is 0xE220A8397B1DCDAF."""
    first = row_uniforms(torch.tensor([0]), 1, seed=0)
    assert first.item() == (0xE220A8397B1DCDAF >> 11) / 2**53
