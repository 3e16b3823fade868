"""`mask_tokens`: how many positions it picks, which ones, and what it writes there."""

import math
from fractions import Fraction

import pytest
import torch

from electra_kernels import draw_uniforms, mask_tokens

from . import oracle, views
from .cases import workload
from .oracle import IGNORED, assert_equal

MASK, VOCABULARY = 3, 1000


def _expected_row(ids, maskable, uniforms, *, probability=0.15, mask_fraction=0.85, random_fraction=0.0):
    """The specification of one row in plain Python: (input_ids, positions, targets)."""
    left = [position for position, flag in enumerate(maskable) if flag]
    slots = len(uniforms)
    used = min(slots, max(1, math.floor(probability * len(left) + 0.5)), len(left))
    written, positions, targets = list(ids), [0] * slots, [IGNORED] * slots
    for slot, (pick, action) in enumerate(uniforms[:used]):
        position = left.pop(math.floor(pick * len(left)))
        positions[slot], targets[slot] = position, ids[position]
        if action < mask_fraction:
            written[position] = MASK
        elif random_fraction and action >= 1 - random_fraction:
            written[position] = math.floor((action - (1 - random_fraction)) / random_fraction * VOCABULARY)
    return written, positions, targets


def _batch(rows, length, device, share=0.8):
    ids = torch.randint(5, VOCABULARY, (rows, length), device=device)
    return ids, torch.rand(rows, length, device=device) < share


def assert_masked_as_specified(ids, maskable, uniforms, **options):
    """Compares mask_tokens with the specification, row by row, and returns its result."""
    masked = mask_tokens(
        ids,
        maskable,
        mask_token_id=MASK,
        vocab_size=VOCABULARY,
        max_predictions=uniforms.shape[1],
        uniforms=uniforms,
        **options,
    )
    rows = zip(ids.tolist(), maskable.tolist(), uniforms.tolist())
    expected = [_expected_row(*row, **options) for row in rows]
    for ours, theirs in zip(masked, zip(*expected)):
        assert ours.dtype == torch.int64
        assert ours.tolist() == list(theirs)
    return masked


# One token, fewer tokens than a word has bits, and whole words.
@pytest.mark.parametrize("length", [1, 7, 64, 128])
@pytest.mark.parametrize("random_fraction", [0.0, 0.1])
def test_positions_ids_and_targets_follow_from_the_uniforms(device, length, random_fraction):
    ids, maskable = _batch(6, length, device)
    uniforms = draw_uniforms((6, max(1, length // 5), 2), device=device)
    assert_masked_as_specified(ids, maskable, uniforms, mask_fraction=0.8, random_fraction=random_fraction)


def test_the_smallest_and_largest_uniforms(device):
    """0 picks the first maskable token and writes a mask. The largest number below 1 picks the last and a random id."""
    ids, maskable = _batch(3, 30, device)
    uniforms = torch.tensor([[0.0, 0.0], [1 - 2.0**-53, 1 - 2.0**-53], [0.5, 0.9], [0.25, 0.8]])
    uniforms = torch.tensor(uniforms.tolist(), dtype=torch.float64, device=device)
    uniforms = uniforms.where(uniforms < 1, 1 - 2.0**-53).expand(3, -1, -1)
    assert_masked_as_specified(ids, maskable, uniforms, mask_fraction=0.8, random_fraction=0.1)


@pytest.mark.parametrize("probability", [0.15, 0.25, 0.5, 1.0])
def test_exactly_k_maskable_tokens_are_picked_without_replacement(device, probability):
    length = 40
    ids = torch.randint(5, VOCABULARY, (length + 1, length), device=device)
    maskable = torch.arange(length, device=device) < torch.arange(length + 1, device=device)[:, None]
    masked = mask_tokens(ids, maskable, mask_token_id=MASK, vocab_size=VOCABULARY, probability=probability)
    width = min(length, max(1, math.floor((probability + 0.005) * length)))
    assert masked.positions.shape == masked.targets.shape == (length + 1, width)
    for count in range(length + 1):
        used = masked.targets[count] != IGNORED
        k = min(width, max(1, math.floor(probability * count + 0.5))) if count else 0
        assert int(used.sum()) == k
        positions = masked.positions[count][used].tolist()
        assert len(set(positions)) == k
        assert all(position < count for position in positions), "a token that is not maskable was picked"
        assert masked.targets[count][used].tolist() == ids[count][positions].tolist()
        assert masked.positions[count][~used].tolist() == [0] * (width - k)


def test_a_half_is_rounded_up_in_float64(device):
    """0.5 x 5 = 2.5 becomes 3, unlike in Python's round; 0.15 x 10 + 0.5 is exactly 2 in float64."""
    assert Fraction(0.5) * 5 == Fraction(5, 2)
    ids, maskable = torch.full((1, 5), 9, device=device), torch.ones(1, 5, dtype=torch.bool, device=device)
    options = {"mask_token_id": MASK, "vocab_size": VOCABULARY, "max_predictions": 5}
    masked = mask_tokens(ids, maskable, probability=0.5, **options)
    assert int((masked.targets != IGNORED).sum()) == 3
    masked = mask_tokens(ids.repeat(1, 2), maskable.repeat(1, 2), probability=0.15, **options)
    assert int((masked.targets != IGNORED).sum()) == 2


# Two usual lengths, a row so short that the width is at least 1, and every token masked.
@pytest.mark.parametrize(
    ("length", "probability", "width"), [(128, 0.15, 19), (512, 0.15, 79), (3, 0.15, 1), (512, 1.0, 512)]
)
def test_the_number_of_slots_depends_on_shapes_alone(device, length, probability, width):
    ids, maskable = _batch(2, length, device, share=0.0)
    masked = mask_tokens(ids, maskable, mask_token_id=MASK, vocab_size=VOCABULARY, probability=probability)
    assert masked.positions.shape == (2, width)


def test_special_tokens_are_never_masked_and_never_changed(device):
    ids, _ = _batch(16, 32, device)
    ids[:, 0], ids[:, 20], ids[:, 21:] = 101, 102, 0
    maskable = (ids != 101) & (ids != 102) & (ids != 0)
    options = {"mask_token_id": MASK, "vocab_size": VOCABULARY, "probability": 1.0, "mask_fraction": 1.0}
    masked = mask_tokens(ids, maskable, **options)
    assert torch.equal(masked.input_ids[~maskable], ids[~maskable])
    assert bool((masked.input_ids[maskable] == MASK).all())


def test_a_row_without_maskable_tokens_is_left_alone(device):
    ids, maskable = _batch(3, 40, device)
    maskable[1] = False
    masked = mask_tokens(ids, maskable, mask_token_id=MASK, vocab_size=VOCABULARY)
    assert torch.equal(masked.input_ids[1], ids[1])
    assert masked.positions[1].tolist() == [0] * 6
    assert masked.targets[1].tolist() == [IGNORED] * 6


def test_a_row_may_have_more_slots_than_tokens(device):
    ids, maskable = _batch(4, 3, device)
    assert_masked_as_specified(ids, maskable, draw_uniforms((4, 8, 2), device=device), probability=1.0)


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_an_integer_attention_mask_is_accepted(device, kind):
    ids, maskable = _batch(3, 40, device)
    options = {
        "mask_token_id": MASK,
        "vocab_size": VOCABULARY,
        "uniforms": draw_uniforms((3, 6, 2), device=device),
    }
    as_integers = mask_tokens(ids, maskable.to(kind) * 2, **options)
    assert_equal(as_integers, mask_tokens(ids, maskable, **options))


def test_every_position_is_equally_likely(device):
    rows, length = workload(2000, interpreted=300), 12
    ids, maskable = torch.full((rows, length), 9, device=device), torch.ones(rows, length, device=device) > 0
    maskable[:, 5] = False
    masked = mask_tokens(ids, maskable, mask_token_id=MASK, vocab_size=VOCABULARY, probability=0.34)
    for slot in range(masked.positions.shape[1]):
        counts = masked.positions[:, slot].cpu().bincount(minlength=length)
        assert counts[5] == 0
        counts = counts[torch.arange(length) != 5]
        assert oracle.chi_square(counts) > 1e-4


@pytest.mark.parametrize(
    ("mask_fraction", "random_fraction"), [(0.85, 0.0), (0.8, 0.1), (0.0, 1.0), (0.9, 0.1)]
)
def test_the_shares_of_masked_kept_and_random_tokens(device, mask_fraction, random_fraction):
    rows, length = workload(200, interpreted=60), 40
    ids, maskable = torch.full((rows, length), 9, device=device), torch.ones(rows, length, device=device) > 0
    masked = mask_tokens(
        ids,
        maskable,
        mask_token_id=MASK,
        vocab_size=VOCABULARY,
        probability=0.5,
        mask_fraction=mask_fraction,
        random_fraction=random_fraction,
    )
    written = masked.input_ids.gather(1, masked.positions)
    total, is_random = written.numel(), (written != MASK) & (written != 9)
    observed = (int((written == MASK).sum()), int((written == 9).sum()), int(is_random.sum()))
    shares = (mask_fraction, 1 - mask_fraction - random_fraction, random_fraction)
    for count, share in zip(observed, shares):
        five_sigma = 5 * math.sqrt(total * max(share * (1 - share), 0))
        # A random id is the mask or the original itself with probability 2 / 1000.
        assert abs(count - share * total) <= five_sigma + 0.006 * total * random_fraction
    if random_fraction:
        ids = written[is_random].cpu()
        assert oracle.chi_square((ids * 20 // VOCABULARY).bincount(minlength=20)) > 1e-4


def test_any_nonzero_byte_of_a_bool_tensor_is_maskable(device):
    ids = torch.randint(5, VOCABULARY, (4, 70), device=device)
    flags = torch.rand(ids.shape, device=device) < 0.6
    odd = views.as_odd_bytes(flags)
    uniforms = torch.rand(4, 9, 2, dtype=torch.float64, device=device)
    options = {"mask_token_id": MASK, "vocab_size": VOCABULARY, "max_predictions": 9, "uniforms": uniforms}
    assert_equal(mask_tokens(ids, odd, **options), mask_tokens(ids, flags, **options))
