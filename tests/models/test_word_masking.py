import itertools
import math

import pytest
import torch
from scipy.stats import chisquare

from electra_kernels import draw_uniforms, mask_tokens
from electra_kernels.models.word_masking import _ngram_lengths, _span_starts, mask_units

V, MASK = 100, 4
# Ids below 10 are special, 10 to 69 start a word, and the others continue one.
STARTS = (torch.arange(V) >= 10) & (torch.arange(V) < 70)
OPTIONS = {"mask_token_id": MASK, "vocab_size": V}


def batch(rows=200, length=48, pieces=1, seed=0):
    """Rows of pieces [CLS] words [SEP], and padding at the end of some of them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, V, (rows, length), generator=generator)
    size = length // pieces
    ids[:, ::size], ids[:, size - 1 :: size] = 1, 2
    padding = torch.randint(0, size // 2, (rows, 1), generator=generator)
    ids[torch.arange(length) >= length - padding] = 0
    return ids, ids >= 10


def numbers(ids, probability=0.15, seed=0):
    slots = min(ids.shape[1], max(1, math.floor((probability + 0.005) * ids.shape[1])))
    return draw_uniforms((len(ids), slots, 2), generator=torch.Generator().manual_seed(seed))


def picked(masked, row):
    return sorted(masked.positions[row][masked.targets[row] != -100].tolist())


def words(row, maskable, starts=STARTS):
    """The positions of each word of a row, found token by token."""
    found, inside = [], False
    for position, (token, allowed) in enumerate(zip(row.tolist(), maskable.tolist())):
        if not allowed:
            inside = False
        elif inside and not starts[token]:
            found[-1].append(position)
        else:
            found.append([position])
            inside = True
    return found


def wanted(maskable, probability, slots):
    count = int(maskable.sum())
    return min(slots, max(1, math.floor(probability * count + 0.5))) if count else 0


@pytest.mark.parametrize("probability", [0.05, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("pieces", [1, 4])
def test_words_are_masked_whole_and_fill_the_wanted_number_to_within_one_word(probability, pieces):
    ids, maskable = batch(pieces=pieces)
    uniforms = numbers(ids, probability)
    masked = mask_units(ids, maskable, STARTS, probability=probability, uniforms=uniforms, **OPTIONS)
    short = 0
    for row in range(len(ids)):
        tokens, own = picked(masked, row), words(ids[row], maskable[row])
        k = wanted(maskable[row], probability, uniforms.shape[1])
        if all(len(word) > k for word in own):
            assert tokens in [word[:k] for word in own]
            continue
        chosen = [word for word in own if word[0] in tokens]
        left = [word for word in own if word[0] not in tokens]
        assert tokens == list(itertools.chain(*chosen)), "a word was masked in part"
        assert len(tokens) == k or len(tokens) > k - max(map(len, left))
        assert len(tokens) <= k
        short += k - len(tokens)
    assert short <= 0.01 * (masked.targets != -100).sum()


def test_shapes_and_values_are_those_of_mask_tokens():
    ids, maskable = batch()
    masked = mask_units(ids, maskable, STARTS, max_ngram=3, mask_fraction=1.0, **OPTIONS)
    plain = mask_tokens(ids, maskable, **OPTIONS)
    assert masked.positions.shape == masked.targets.shape == plain.targets.shape
    used = masked.targets != -100
    assert torch.equal(masked.targets[used], ids.gather(1, masked.positions)[used])
    assert (masked.positions[~used] == 0).all()
    expected = ids.clone()
    for row in range(len(ids)):
        expected[row, picked(masked, row)] = MASK
    assert torch.equal(masked.input_ids, expected)


def test_each_token_of_a_word_is_masked_replaced_or_kept_by_itself():
    ids, maskable = batch(rows=2000)
    uniforms = numbers(ids)
    masked = mask_units(
        ids, maskable, STARTS, mask_fraction=0.6, random_fraction=0.1, uniforms=uniforms, **OPTIONS
    )
    used = masked.targets != -100
    written = masked.input_ids.gather(1, masked.positions)[used]
    is_masked, is_kept = written == MASK, written == masked.targets[used]
    # A random id equals the original or the mask once in V times.
    counts = [is_masked.sum(), is_kept.sum(), (~is_masked & ~is_kept).sum()]
    shares = [0.6 + 0.1 / V, 0.3 + 0.1 / V, 0.1 - 0.2 / V]
    assert chisquare(counts, [share * len(written) for share in shares]).pvalue > 1e-4


def test_all_words_are_chosen_equally_often():
    # Ten words of two tokens, and a special token in their midst; two words are masked.
    row = torch.tensor([1, *[10, 80] * 5, 2, *[10, 80] * 5, 2])
    ids = row.repeat(20_000, 1)
    masked = mask_units(ids, ids >= 10, STARTS, probability=0.2, uniforms=numbers(ids, 0.2), **OPTIONS)
    counts = torch.bincount(masked.positions.flatten(), minlength=len(row))
    assert counts.sum() == 20_000 * 4
    first = [counts[i].item() for word in words(row, row >= 10) for i in word[:1]]
    assert torch.equal(counts[row == 10], counts[row == 80])
    assert chisquare(first).pvalue > 1e-4
    assert chisquare(first).statistic > 1.0  # random, not one word after the other


def test_pairs_of_words_are_chosen_equally_often():
    ids = torch.tensor([10, 80] * 6).repeat(30_000, 1)
    masked = mask_units(ids, ids >= 10, STARTS, probability=1 / 3, uniforms=numbers(ids, 1 / 3), **OPTIONS)
    first, second = masked.positions.sort(-1).values[:, ::2].unbind(1)
    counts = torch.bincount(first // 2 * 6 + second // 2, minlength=36).view(6, 6)
    pairs = counts[torch.ones(6, 6).triu(1) == 1]
    assert pairs.sum() == 30_000
    assert chisquare(pairs).pvalue > 1e-4


@pytest.mark.parametrize("largest", [1, 2, 3, 5])
def test_lengths_of_spans_have_weights_proportional_to_1_over_length(largest):
    grid = (torch.arange(60_000).double() + 0.5) / 60_000
    counts = torch.bincount(_ngram_lengths(grid, largest), minlength=largest + 1)
    expected = 1 / torch.arange(1, largest + 1).double()
    assert counts[0] == 0
    assert (counts[1:] / 60_000 - expected / expected.sum()).abs().max() <= 1 / 60_000


def test_spans_have_the_given_lengths_and_are_cut_by_tokens_that_are_not_maskable():
    maskable = torch.tensor([[1, 1, 1, 1, 0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    words = torch.tensor([[1, 1, 0, 1, 0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    lengths = torch.tensor([[2, 3, 1, 1, 1, 1, 1, 1, 1, 1]])
    expected = torch.tensor([[1, 0, 0, 1, 0, 1, 0, 1, 0, 0]], dtype=torch.bool)
    assert torch.equal(_span_starts(maskable, words, lengths), expected)


@pytest.mark.parametrize("pieces", [1, 4])
def test_spans_of_words_are_whole_contiguous_and_inside_a_piece(pieces):
    ids, maskable = batch(rows=500, length=96, pieces=pieces)
    lengths = set()
    uniforms = numbers(ids, 0.05)
    masked = mask_units(ids, maskable, STARTS, probability=0.05, max_ngram=3, uniforms=uniforms, **OPTIONS)
    for row in range(len(ids)):
        tokens, own = set(picked(masked, row)), words(ids[row], maskable[row])
        is_chosen = [set(word) <= tokens for word in own]
        assert tokens == set(itertools.chain(*itertools.compress(own, is_chosen))), (
            "a word was masked in part"
        )
        runs = [len(list(run)) for chosen, run in itertools.groupby(is_chosen) if chosen]
        lengths.update(runs)
        assert len(tokens) <= wanted(maskable[row], 0.05, uniforms.shape[1])
    assert {1, 2, 3} <= lengths


def test_the_uniforms_decide_everything_and_no_random_state_is_read():
    ids, maskable = batch()
    uniforms = numbers(ids)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = (
        mask_units(ids, maskable, STARTS, max_ngram=3, uniforms=uniforms, **OPTIONS) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first, second):
        assert torch.equal(one, other)
    other = mask_units(ids, maskable, STARTS, max_ngram=3, uniforms=numbers(ids, seed=1), **OPTIONS)
    assert not torch.equal(first.input_ids, other.input_ids)


def test_a_row_does_not_depend_on_the_others():
    ids, maskable = batch()
    uniforms = numbers(ids)
    whole = mask_units(ids, maskable, STARTS, max_ngram=2, uniforms=uniforms, **OPTIONS)
    part = mask_units(ids[50:53], maskable[50:53], STARTS, max_ngram=2, uniforms=uniforms[50:53], **OPTIONS)
    for one, other in zip(whole, part):
        assert torch.equal(one[50:53], other)


def test_rows_without_words_have_no_target():
    ids, maskable = batch(rows=3)
    maskable[1] = False
    masked = mask_units(ids, maskable, STARTS, max_ngram=2, **OPTIONS)
    assert (masked.targets[1] == -100).all()
    assert torch.equal(masked.input_ids[1], ids[1])
    assert (masked.targets[[0, 2]] != -100).any(-1).all()


def test_a_word_longer_than_the_wanted_number_is_cut_if_there_is_no_other():
    ids = torch.tensor([[1, *[80] * 20, 2]])  # one word, which even has no start
    masked = mask_units(ids, ids >= 10, STARTS, **OPTIONS)
    assert picked(masked, 0) == [1, 2, 3]
    everything = mask_units(ids, ids >= 10, STARTS, probability=1.0, **OPTIONS)
    assert picked(everything, 0) == list(range(1, 21))


@pytest.mark.parametrize("shape", [(0, 8), (2, 0), (2, 1)])
def test_small_shapes(shape):
    ids = torch.full(shape, 10)
    masked = mask_units(ids, ids >= 10, STARTS, max_ngram=2, **OPTIONS)
    assert masked.input_ids.shape == shape
    assert (masked.targets != -100).sum() == (2 if shape == (2, 1) else 0)


def test_integer_masks_and_strides_change_nothing():
    ids, maskable = batch()
    uniforms = numbers(ids)
    expected = mask_units(ids, maskable, STARTS, uniforms=uniforms, **OPTIONS)
    wide = torch.stack([ids, ids], -1)[..., 0]
    for one, other in zip(expected, mask_units(wide, maskable.long(), STARTS, uniforms=uniforms, **OPTIONS)):
        assert torch.equal(one, other)


def test_it_compiles_into_one_graph():
    ids, maskable = batch(rows=20)
    uniforms = numbers(ids)
    options = {"max_ngram": 3, "uniforms": uniforms, **OPTIONS}
    compiled = torch.compile(mask_units, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        compiled(ids, maskable, STARTS, **options), mask_units(ids, maskable, STARTS, **options)
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"starts_word": STARTS[:9]}, r"starts_word has shape \[9\], should be \[V\] = \[100\]"),
        ({"maskable": torch.ones(2, 3)}, r"maskable has shape \[2, 3\], should be \[200, 48\]"),
        ({"input_ids": torch.ones(3)}, r"input_ids has shape \[3\], should be \[B, T\]"),
        ({"probability": 0.0}, r"probability is 0.0, should be in \(0, 1\]"),
        ({"max_ngram": 0}, "max_ngram is 0, should be at least 1"),
        ({"uniforms": torch.rand(200, 8, 2).double()}, r"uniforms has shape \[200, 8, 2\], should be"),
        ({"mask_token_id": 100}, r"mask_token_id is 100, should be in \[0, 100\)"),
    ],
)
def test_an_argument_out_of_range_is_refused(change, message):
    ids, maskable = batch()
    arguments = {"input_ids": ids, "maskable": maskable, "starts_word": STARTS, **OPTIONS}
    with pytest.raises(ValueError, match=message):
        mask_units(**{**arguments, **change})


def test_a_table_of_another_dtype_is_refused():
    ids, maskable = batch()
    with pytest.raises(TypeError, match=r"starts_word\.dtype is torch\.int64, should be torch\.bool"):
        mask_units(ids, maskable, STARTS.long(), **OPTIONS)
