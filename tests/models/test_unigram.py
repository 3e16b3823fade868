import pytest
import torch
from scipy.stats import chisquare

from electra_kernels import draw_uniforms
from electra_kernels.models.unigram import Unigram

COUNTS = torch.tensor([0, 0, 5, 1, 0, 10, 3, 0])
DRAWS = 100_000


def draw(target, **options):
    uniforms = draw_uniforms((DRAWS,), generator=torch.Generator().manual_seed(3))
    return Unigram(COUNTS)(torch.full((DRAWS,), target), uniforms=uniforms, **options)


def assert_frequencies(tokens, expected):
    observed = torch.bincount(tokens, minlength=len(expected)).double()
    possible = expected > 0
    assert observed[~possible].sum() == 0
    assert chisquare(observed[possible], (expected / expected.sum() * DRAWS)[possible]).pvalue > 1e-3


def test_tokens_are_drawn_by_their_frequency():
    assert_frequencies(draw(5), COUNTS.double())


@pytest.mark.parametrize("target", [0, 2, 3, 4, 5, 6, 7])
def test_banning_the_original_keeps_the_proportions_of_the_other_tokens(target):
    expected = COUNTS.double()
    expected[target] = 0
    assert_frequencies(draw(target, ban_original=True), expected)


def test_every_draw_inverts_the_cdf():
    counts = torch.rand(30_522, generator=torch.Generator().manual_seed(0)).double() ** 8
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), counts.cumsum(0) / counts.sum()])
    uniforms = draw_uniforms((DRAWS,))
    tokens = Unigram(counts)(torch.zeros(DRAWS, dtype=torch.long), uniforms=uniforms)
    assert (cdf[tokens] <= uniforms + 1e-12).all()
    assert (uniforms < cdf[tokens + 1] + 1e-12).all()


def test_the_ends_of_the_interval_draw_tokens_with_counts():
    ends = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    unigram = Unigram(COUNTS)
    assert unigram(torch.tensor([5, 5]), uniforms=ends).tolist() == [2, 6]
    assert unigram(torch.tensor([2, 6]), uniforms=ends, ban_original=True).tolist() == [3, 5]


def test_an_unused_slot_draws_nothing():
    unigram, uniforms = Unigram(COUNTS), torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert unigram(torch.tensor([-100, 3]), uniforms=uniforms).tolist() == [-1, 5]
    assert unigram(torch.tensor([-100, 3]), uniforms=uniforms, ban_original=True).tolist() == [-1, 5]


def test_nothing_is_drawn_if_only_the_banned_original_has_a_count():
    unigram, uniforms = Unigram(torch.tensor([0, 4, 0])), torch.tensor([0.1, 0.9], dtype=torch.float64)
    assert unigram(torch.tensor([1, 0]), uniforms=uniforms, ban_original=True).tolist() == [-1, 1]


def test_half_precision_models_keep_the_distribution():
    before = Unigram(COUNTS).cumulative
    assert torch.equal(Unigram(COUNTS).to(torch.bfloat16).cumulative, before)


@pytest.mark.parametrize(
    "counts, message",
    [
        (torch.ones(2, 3), r"unigram has shape \[2, 3\], should be \[V\]"),
        (torch.tensor([1.0, -1.0]), "unigram has a negative, infinite or NaN entry"),
        (torch.tensor([1.0, float("nan")]), "unigram has a negative, infinite or NaN entry"),
        (torch.zeros(3), "or no positive one, should be counts"),
    ],
)
def test_bad_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        Unigram(counts)
