"""`sample_tokens`: draws against a float64 CDF and in distribution, with temperature and banned tokens."""

import math

import pytest
import torch

from electra_kernels import draw_uniforms, sample_tokens

from . import oracle
from .cases import workload

# One and two tokens; sizes around powers of two and the tile size 512; primes; several tiles, the last one ragged.
VOCABULARIES = (1, 2, 31, 128, 511, 512, 513, 1021, 2049)
# The smallest and the largest uniform, others close to 0 and to 1, and the middle.
EDGE_UNIFORMS = torch.tensor([0.0, 2.0**-60, 2.0**-30, 0.5, 1 - 2.0**-30, 1 - 2.0**-53], dtype=torch.float64)


def _uniforms(count, device):
    uniforms = torch.rand(count, dtype=torch.float64)
    uniforms[: len(EDGE_UNIFORMS)] = EDGE_UNIFORMS[:count]
    return uniforms.to(device)


def _logits(rows, vocabulary, dtype, device):
    return (3 * torch.randn(rows, vocabulary)).to(device, dtype)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_every_draw_inverts_the_cdf(device, dtype, vocabulary):
    logits, uniforms = _logits(9, vocabulary, dtype, device), _uniforms(9, device)
    tokens, logsumexp = sample_tokens(logits, uniforms=uniforms)
    oracle.assert_drawn(tokens, logits, uniforms)
    oracle.assert_logsumexp(logsumexp, logits)
    assert logsumexp.dtype == torch.float32
    assert tokens.dtype == torch.int64


@pytest.mark.parametrize("temperature", [0.05, 0.7, 5.0])
def test_temperature_applies_to_the_draw_only(device, dtype, temperature):
    logits, uniforms = _logits(9, 600, dtype, device), _uniforms(9, device)
    tokens, logsumexp = sample_tokens(logits, temperature=temperature, uniforms=uniforms)
    oracle.assert_drawn(tokens, logits, uniforms, temperature=temperature)
    oracle.assert_logsumexp(logsumexp, logits)


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_extreme_temperatures_give_the_argmax_and_the_uniform_distribution(device, temperature):
    logits, uniforms = _logits(9, 600, torch.float32, device), _uniforms(9, device)
    tokens, _ = sample_tokens(logits, temperature=temperature, uniforms=uniforms)
    expected = logits.argmax(-1) if temperature < 1 else (uniforms * 600).long()
    assert torch.equal(tokens, expected)


def test_a_banned_token_is_never_drawn_and_minus_one_bans_nothing(device, dtype):
    logits, uniforms = _logits(12, 700, dtype, device), _uniforms(12, device)
    free, raw = sample_tokens(logits, uniforms=uniforms)
    banned = free.where(torch.arange(12, device=device) % 3 != 0, -1)
    tokens, logsumexp = sample_tokens(logits, banned=banned, uniforms=uniforms)
    assert bool((tokens != banned).all())
    oracle.assert_drawn(tokens, logits, uniforms, banned=banned)
    assert torch.equal(tokens[::3], free[::3])
    oracle.assert_accurate("logsumexp", logsumexp, raw.double(), scale=1 + raw.abs())


@pytest.mark.parametrize("lead", [30.0, 80.0, 300.0])
def test_a_banned_token_may_have_nearly_all_probability(device, dtype, lead):
    """Subtracting its share from the sum would leave nothing but rounding errors."""
    logits, uniforms = _logits(9, 600, dtype, device), _uniforms(9, device)
    banned = torch.randint(0, 600, (9,), device=device)
    logits.scatter_(1, banned[:, None], lead)
    tokens, logsumexp = sample_tokens(logits, banned=banned, uniforms=uniforms)
    oracle.assert_drawn(tokens, logits, uniforms, banned=banned)
    oracle.assert_logsumexp(logsumexp, logits)


def test_banning_the_only_possible_token_leaves_nothing_to_draw(device, dtype):
    logits = torch.full((3, 600), -torch.inf, device=device, dtype=dtype)
    logits[:, 5] = 2.0
    tokens, logsumexp = sample_tokens(logits, banned=torch.tensor([5, 4, -1], device=device))
    assert tokens.tolist() == [-1, 5, 5]
    assert logsumexp.tolist() == [2.0, 2.0, 2.0]


def test_a_vocabulary_of_one_token_that_may_be_banned(device):
    tokens, _ = sample_tokens(torch.zeros(2, 1, device=device), banned=torch.tensor([0, -1], device=device))
    assert tokens.tolist() == [-1, 0]


def test_a_token_of_probability_zero_is_never_drawn(device, dtype):
    """-inf before, among and after the finite logits, in whole tiles too, and a logit whose exponential underflows."""
    logits = torch.full((len(EDGE_UNIFORMS), 2049), -torch.inf, device=device, dtype=dtype)
    logits[:, 600:610] = 0.0
    logits[:, 605] = -torch.inf
    logits[:, 2000] = -1.0
    logits[:, 700] = -60000.0
    tokens, _ = sample_tokens(logits, uniforms=EDGE_UNIFORMS.to(device))
    oracle.assert_drawn(tokens, logits, EDGE_UNIFORMS)


def test_a_boundary_of_the_cdf_belongs_to_the_token_above_it(device):
    """Under equal weights every boundary of the CDF is exact."""
    vocabulary = 1024
    boundaries = torch.arange(1, vocabulary, 73, dtype=torch.float64, device=device) / vocabulary
    logits = torch.zeros(len(boundaries), vocabulary, device=device)
    at, _ = sample_tokens(logits, uniforms=boundaries)
    below, _ = sample_tokens(logits, uniforms=boundaries - 2.0**-40)
    assert torch.equal(at, (boundaries * vocabulary).long())
    assert torch.equal(below, at - 1)


# One tile and two.
@pytest.mark.parametrize("vocabulary", [5, 700])
def test_a_draw_resolves_a_probability_of_1e_9(device, vocabulary):
    """The first token has probability 1e-9, the others share the rest. The boundary is exact to a thousandth of it."""
    logits = torch.zeros(2, vocabulary, device=device)
    logits[:, 0] = math.log(1e-9 * (vocabulary - 1))
    probability = logits[0].double().softmax(-1)[0].item()
    uniforms = torch.tensor([0.999, 1.001], dtype=torch.float64, device=device) * probability
    tokens, _ = sample_tokens(logits, uniforms=uniforms)
    assert tokens.tolist() == [0, 1]


def test_the_distribution_at_a_vocabulary_of_30522(device):
    """A chi-square test over bins of rising rank. No token of the last bins has a probability of 1e-5."""
    vocabulary, draws = 30_522, 1000
    order = torch.randperm(vocabulary)
    logits = (-1.1 * torch.arange(1, vocabulary + 1, dtype=torch.float64).log())[order].float().to(device)
    uniforms = draw_uniforms((draws,), device=device)
    tokens, _ = sample_tokens(logits.expand(draws, -1), uniforms=uniforms)
    tokens, uniforms, probability = tokens.cpu(), uniforms.cpu(), logits.double().cpu().softmax(-1)
    above = probability.cumsum(0)[tokens]
    assert bool((uniforms < above + oracle.CDF_TOLERANCE).all())
    assert bool((uniforms >= above - probability[tokens] - oracle.CDF_TOLERANCE).all())
    edges = torch.tensor([1, 3, 10, 30, 100, 1000, 6000, 12_000, 20_000, vocabulary])
    bins = torch.bucketize(order, edges, right=True)
    expected = torch.zeros(10, dtype=torch.float64).scatter_add_(0, bins, probability) * draws
    observed = bins[tokens].bincount(minlength=10)
    assert expected.min() >= 10
    assert oracle.chi_square(observed, expected) > 1e-4


def test_the_distribution_of_a_small_vocabulary(device):
    logits = torch.tensor([0.0, -1.0, -torch.inf, 1.0, -3.0, -2.0, 0.5], device=device)
    draws = workload(2000, interpreted=300)
    tokens, _ = sample_tokens(logits.expand(draws, -1), temperature=1.5)
    expected = (logits.double().cpu() / 1.5).softmax(-1) * draws
    observed = tokens.cpu().bincount(minlength=7)
    assert observed[2] == 0
    possible = expected > 0
    assert oracle.chi_square(observed[possible], expected[possible]) > 1e-4


def test_every_draw_inverts_the_cdf_at_a_vocabulary_of_30522(device, dtype):
    logits, uniforms = _logits(8, 30_522, dtype, device), _uniforms(8, device)
    tokens, _ = sample_tokens(logits, uniforms=uniforms)
    oracle.assert_drawn(tokens, logits, uniforms)


def test_a_generator_reproduces_the_draw(device):
    logits = _logits(9, 600, torch.float32, device)
    first, second, other = (
        sample_tokens(logits, generator=torch.Generator(device).manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# A single row, one dimension, several, and one of size 1 among them.
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3)])
def test_logits_of_any_leading_shape(device, shape):
    logits, uniforms = torch.randn(*shape, 50, device=device), torch.rand(shape, dtype=torch.float64)
    tokens, logsumexp = sample_tokens(logits, uniforms=uniforms.to(device))
    assert tokens.shape == logsumexp.shape == shape
    oracle.assert_drawn(tokens, logits, uniforms)


def test_a_slice_of_the_uniforms_gives_the_slice_of_the_draw(device):
    """Ranks and micro-batches slice one global draw."""
    logits, uniforms = _logits(12, 600, torch.float32, device), _uniforms(12, device)
    whole, _ = sample_tokens(logits, uniforms=uniforms)
    parts = [sample_tokens(logits[i : i + 5], uniforms=uniforms[i : i + 5])[0] for i in (0, 5, 10)]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("upstream", [1.0, 2.5])
def test_the_gradient_of_the_logsumexp_is_the_softmax(device, dtype, upstream):
    logits = _logits(6, 600, dtype, device).requires_grad_()
    _, logsumexp = sample_tokens(logits)
    weights = upstream * torch.arange(1, 7, device=device, dtype=torch.float32)
    (logsumexp * weights).sum().backward()
    truth = weights.double()[:, None] * logits.detach().double().softmax(-1)
    distance = 1 + logits.detach().double().abs() + logsumexp.detach().double().abs()[:, None]
    oracle.assert_accurate("gradient", logits.grad, truth, scale=truth * distance, precision=dtype)
