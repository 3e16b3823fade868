"""Corruptions without a generator: which tokens change, and what their labels say."""

import pytest
import torch

from electra_kernels.models.unigram import Unigram
from electra_kernels.training.objectives import (
    OBJECTIVES,
    CorruptedRows,
    CorruptedTokens,
    ShuffledWords,
    TokenBatch,
    token_batch,
)
from electra_kernels.training.objectives.corrupted import corrupt

from .vocabulary import CONTINUATION, batch_of

OTHER_WORDS = Unigram(torch.tensor([0] * 50 + [1] * 50))


def tokens_of(input_ids, maskable=None):
    """Rows without padding, in which every token is maskable unless ``maskable`` says otherwise."""
    every = torch.ones_like(input_ids, dtype=torch.bool)
    numbers = torch.arange(len(input_ids))
    return TokenBatch(input_ids, every, every if maskable is None else maskable, numbers, numbers)


@pytest.fixture
def input_ids():
    return torch.randint(5, 50, (200, 20), generator=torch.Generator().manual_seed(0))


def test_the_replaced_share_is_exact_and_labels_say_what_changed(input_ids):
    replaced = corrupt(tokens_of(input_ids), OTHER_WORDS, 0)
    assert (replaced.is_replaced.sum(-1) == 3).all(), "15 % of 20, and no draw can equal an original"
    assert torch.equal(replaced.is_replaced, replaced.input_ids != input_ids)


def test_a_draw_that_equals_the_original_is_original():
    input_ids = torch.full((50, 20), 7)
    replaced = corrupt(tokens_of(input_ids), Unigram(torch.arange(10) == 7), 0)
    assert not replaced.is_replaced.any()
    assert torch.equal(replaced.input_ids, input_ids)


def test_only_maskable_tokens_change(input_ids):
    maskable = torch.arange(20).expand(200, -1) % 2 == 1
    replaced = corrupt(tokens_of(input_ids, maskable), OTHER_WORDS, 0, probability=0.5)
    assert replaced.is_replaced.any()
    assert not replaced.is_replaced[~maskable].any()


def test_a_share_of_the_rows_is_left_alone(input_ids):
    replaced = corrupt(tokens_of(input_ids), OTHER_WORDS, 0, share_of_rows=0.5)
    assert 70 < replaced.is_replaced.any(-1).sum() < 130


@pytest.mark.parametrize("name", ["corrupted_tokens", "shuffled_words"])
def test_token_labels_say_what_changed(name, config, text, mixed_rows):
    replaced, attention_mask, segments = OBJECTIVES[name](config, text).batch(mixed_rows, seed=0)
    assert torch.equal(replaced.is_replaced, replaced.input_ids != mixed_rows.input_ids)
    assert torch.equal(attention_mask, mixed_rows.attention_mask)
    assert segments is None
    assert replaced.is_replaced.any()
    assert not replaced.is_replaced[~mixed_rows.maskable].any()


def test_15_percent_of_the_words_of_a_row_change_places(config, text, mixed_rows):
    replaced = ShuffledWords(config, text).batch(mixed_rows, seed=0).replaced
    assert torch.equal(replaced.input_ids.sort(-1).values, mixed_rows.input_ids.sort(-1).values)
    continues = mixed_rows.input_ids == CONTINUATION
    stays = continues | continues.roll(-1, 1)
    assert stays[mixed_rows.maskable].any()
    assert not replaced.is_replaced[stays].any()
    movable = (mixed_rows.maskable & ~stays).sum(-1)
    picked = (0.15 * movable + 0.5).floor()
    moved = replaced.is_replaced.sum(-1)
    assert (moved <= picked).all()
    assert (moved == picked)[picked > 1].float().mean() > 0.8  # a position may get the word that it had
    assert not moved[picked == 1].any()


def test_a_row_of_one_repeated_word_has_no_moved_word(config, text):
    replaced = ShuffledWords(config, text).batch(batch_of([[9] * 30] * 4), seed=0).replaced
    assert not replaced.is_replaced.any()


def test_every_word_moves_to_every_position_equally_often(config, text):
    words = list(range(20, 34))  # 14 words, 2 of which change places
    replaced = ShuffledWords(config, text).batch(batch_of([words] * 3_000), seed=0).replaced
    assert (replaced.is_replaced.sum(-1) == 2).all()
    seen = torch.stack([(replaced.input_ids[:, 1:15] == word).sum(0) for word in words])
    away = seen[~torch.eye(14, dtype=torch.bool)].double()
    assert away.mean() == pytest.approx(3_000 * 2 / 14 / 13)
    assert (away - away.mean()).abs().max() < 5 * away.mean().sqrt()


def test_corrupted_tokens_and_rows_differ_in_their_labels_only(rows, electra_config, facts):
    tokens = token_batch(rows, torch.arange(64), torch.device("cpu"))
    per_token, per_row = CorruptedTokens(electra_config, facts), CorruptedRows(electra_config, facts)
    first, second = per_token.batch(tokens, seed=1), per_row.batch(tokens, seed=1)
    assert torch.equal(first.replaced.input_ids, second.input_ids)
    assert torch.equal(second.labels, first.replaced.is_replaced.any(-1))
    assert second.has_label.all()
    assert 0.25 < second.labels.float().mean() < 0.75
    logits = per_row.row_scores(second.input_ids, second.attention_mask)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, second.labels.float())
    torch.testing.assert_close(per_row(second, 1.0)[0], expected)
