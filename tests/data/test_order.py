import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from electra_kernels.data.order import row_indices


def epochs(count, seed, number):
    return row_indices(torch.arange(number * count), count, seed).view(number, count)


@pytest.mark.parametrize("count", [*range(1, 18), 99, 100, 101, 1000, 4095, 4096, 4097, 65536, 65537])
def test_every_epoch_is_a_permutation(count):
    for seed in (0, 1, -(2**63), 2**63 - 1):
        assert torch.equal(epochs(count, seed, 3).sort(1).values, torch.arange(count).expand(3, -1))


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_every_later_epoch_is_a_permutation(count, seed, epoch):
    rows = row_indices(epoch * count + torch.arange(count), count, seed)
    assert rows.sort().values.tolist() == list(range(count))


@settings(deadline=None)
@given(st.integers(1, 2**40), st.lists(st.integers(0, 2**60), min_size=1, max_size=20))
def test_a_row_depends_on_its_number_alone(count, numbers):
    together = row_indices(torch.tensor(numbers), count, 7)
    assert together.dtype == torch.int64
    assert together.tolist() == [int(row_indices(torch.tensor([n]), count, 7)) for n in numbers]


@pytest.mark.parametrize("count", [2**40, 2**40 - 1, 2**33 + 5, 2**62])
def test_large_epochs_are_spread_without_repetition(count):
    rows = row_indices(torch.arange(100_000), count, 1)
    assert rows.min() >= 0
    assert rows.max() < count
    assert rows.unique().numel() == 100_000
    assert chisquare((rows.double() / count * 64).long().bincount(minlength=64)).pvalue > 1e-4


@pytest.mark.parametrize("count", [2, 3, 5, 6, 10, 13])
def test_every_row_is_equally_likely_at_every_place(count):
    by_epoch = epochs(count, 3, 4000)
    by_seed = torch.stack([row_indices(torch.arange(count), count, seed) for seed in range(600)])
    for sample in (by_epoch, by_seed):
        for place in range(count):
            assert chisquare(sample[:, place].bincount(minlength=count)).pvalue > 1e-5


@pytest.mark.parametrize("count", [5, 7, 10, 40])
def test_pairs_of_places_hold_every_pair_of_rows_equally_often(count):
    sample = epochs(count, 5, 200 * count)
    for first, second in itertools.islice(itertools.combinations(range(count), 2), 30):
        pairs = (sample[:, first] * count + sample[:, second]).bincount(minlength=count**2).view(count, count)
        assert not pairs.diagonal().any()
        assert chisquare(pairs[~torch.eye(count, dtype=torch.bool)]).pvalue > 1e-5


@pytest.mark.parametrize("count", [3, 4])
def test_every_permutation_of_a_few_rows_is_equally_likely(count):
    permutations = [tuple(row) for row in epochs(count, 3, 5000).tolist()]
    counts = [permutations.count(each) for each in itertools.permutations(range(count))]
    assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("count", [100, 1000, 1024])
def test_epochs_and_seeds_are_independent(count):
    """Two independent permutations agree at one place on average, and so do their differences of order."""
    samples = [
        *epochs(count, 0, 40),
        *(row_indices(torch.arange(count), count, seed) for seed in range(1, 41)),
    ]
    agreements = [int((a == b).sum()) for a, b in itertools.combinations(samples, 2)]
    assert 0.9 < sum(agreements) / len(agreements) < 1.1
    follows = [int((a[1:] - a[:-1] == 1).sum()) for a in samples]
    assert 0.5 < sum(follows) / len(follows) < 1.5


def test_the_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epochs(50, 3, 2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(epochs(50, 3, 2), first)


def test_no_numbers_give_no_rows():
    assert row_indices(torch.empty(0, dtype=torch.int64), 10, 0).shape == (0,)


@pytest.mark.parametrize("count", [0, -1, 2**62 + 1])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(ValueError, match=rf"count: {count} should be from 1 to 2\*\*62"):
        row_indices(torch.arange(3), count, 0)
