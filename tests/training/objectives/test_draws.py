"""Streams of random numbers: they follow from seed, name and number of the row, and only from these."""

import pytest
import torch

from electra_kernels.row_uniforms import row_uniforms
from electra_kernels.training.objectives.draws import row_draws, stream_seed

NUMBERS = torch.arange(2_000)


def test_draws_are_the_uniforms_of_a_stream():
    draws = row_draws(NUMBERS, "masking", 3, 4, 2)
    assert torch.equal(draws, row_uniforms(NUMBERS, 8, stream_seed(3, "masking")).view(-1, 4, 2))
    assert row_draws(NUMBERS, "masking", 3).shape == (2_000,)


def test_more_numbers_are_appended():
    """A longer row has more slots for masks, and the first ones keep their numbers."""
    longer = row_draws(NUMBERS, "masking", 3, 9, 2)
    assert torch.equal(longer[:, :4], row_draws(NUMBERS, "masking", 3, 4, 2))


@pytest.mark.parametrize("other", [(3, "sampling"), (4, "masking"), (-3, "masking"), (2**62, "masking")])
def test_streams_are_unrelated(other):
    seed, name = other
    one, two = row_draws(NUMBERS, "masking", 3, 5), row_draws(NUMBERS, name, seed, 5)
    both = torch.stack([one.flatten(), two.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05  # 5 standard errors
    # Nor is one stream the other one, shifted by some rows or numbers.
    assert not torch.isin(one, two).any()
