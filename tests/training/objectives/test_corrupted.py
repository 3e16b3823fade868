"""Corruptions without a generator: which tokens change, and what their labels say."""

import pytest
import torch

from electra_kernels.models.unigram import Unigram
from electra_kernels.training.objectives import (
    OBJECTIVES,
    CorruptedRows,
    CorruptedTokens,
    ShuffledWords,
    token_batch,
)
from electra_kernels.training.objectives.corrupted import corrupt

from .vocabulary import CONTINUATION, batch_of


@pytest.fixture
def ids_and_maskable():
    torch.manual_seed(0)
    return torch.randint(5, 50, (200, 20)), torch.ones(200, 20, dtype=torch.bool)


def test_the_replaced_share_is_exact_and_labels_say_what_changed(ids_and_maskable):
    input_ids, maskable = ids_and_maskable
    replaced = corrupt(input_ids, maskable, Unigram(torch.tensor([0] * 50 + [1] * 50)))
    assert (replaced.is_replaced.sum(-1) == 3).all(), "15 % of 20, and no draw can equal an original"
    assert torch.equal(replaced.is_replaced, replaced.input_ids != input_ids)


def test_a_draw_that_equals_the_original_is_original():
    input_ids = torch.full((50, 20), 7)
    replaced = corrupt(input_ids, torch.ones(50, 20, dtype=torch.bool), Unigram(torch.arange(10) == 7))
    assert not replaced.is_replaced.any()
    assert torch.equal(replaced.input_ids, input_ids)


def test_only_maskable_tokens_change(ids_and_maskable):
    input_ids, maskable = ids_and_maskable
    maskable = maskable.clone()
    maskable[:, ::2] = False
    replaced = corrupt(input_ids, maskable, Unigram(torch.tensor([0] * 50 + [1] * 50)), probability=0.5)
    assert replaced.is_replaced.any()
    assert not replaced.is_replaced[~maskable].any()


def test_a_share_of_the_rows_is_left_alone(ids_and_maskable):
    input_ids, maskable = ids_and_maskable
    replaced = corrupt(input_ids, maskable, Unigram(torch.tensor([0] * 50 + [1] * 50)), share_of_rows=0.5)
    assert 70 < replaced.is_replaced.any(-1).sum() < 130


@pytest.mark.parametrize("name", ["corrupted_tokens", "shuffled_words"])
def test_token_labels_say_what_changed(name, config, text, mixed_rows):
    torch.manual_seed(0)
    replaced, attention_mask = OBJECTIVES[name](config, text).batch(mixed_rows)
    assert torch.equal(replaced.is_replaced, replaced.input_ids != mixed_rows.input_ids)
    assert torch.equal(attention_mask, mixed_rows.attention_mask)
    assert replaced.is_replaced.any()
    assert not replaced.is_replaced[~mixed_rows.maskable].any()


def test_15_percent_of_the_words_of_a_row_change_places(config, text, mixed_rows):
    torch.manual_seed(0)
    replaced, _ = ShuffledWords(config, text).batch(mixed_rows)
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
    replaced, _ = ShuffledWords(config, text).batch(batch_of([[9] * 30] * 4))
    assert not replaced.is_replaced.any()


def test_every_word_moves_to_every_position_equally_often(config, text):
    torch.manual_seed(0)
    words = list(range(20, 34))  # 14 words, 2 of which change places
    replaced, _ = ShuffledWords(config, text).batch(batch_of([words] * 3_000))
    assert (replaced.is_replaced.sum(-1) == 2).all()
    seen = torch.stack([(replaced.input_ids[:, 1:15] == word).sum(0) for word in words])
    away = seen[~torch.eye(14, dtype=torch.bool)].double()
    assert away.mean() == pytest.approx(3_000 * 2 / 14 / 13)
    assert (away - away.mean()).abs().max() < 5 * away.mean().sqrt()


def test_corrupted_tokens_and_rows_differ_in_their_labels_only(rows, electra_config, facts):
    tokens = token_batch(rows, torch.arange(64), torch.device("cpu"))
    per_token, per_row = CorruptedTokens(electra_config, facts), CorruptedRows(electra_config, facts)
    torch.manual_seed(1)
    first = per_token.batch(tokens)
    torch.manual_seed(1)
    second = per_row.batch(tokens)
    assert torch.equal(first.replaced.input_ids, second.replaced.input_ids)
    corrupted = first.replaced.is_replaced.any(-1)
    assert 0.25 < corrupted.float().mean() < 0.75
    logits = per_row.row_scores(second.replaced.input_ids, second.attention_mask)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, corrupted.float())
    torch.testing.assert_close(per_row(second, 1.0)[0], expected)
