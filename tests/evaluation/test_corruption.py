import pytest
import torch

from electra_kernels.evaluation.corruption import corrupt
from electra_kernels.models.unigram import Unigram


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randint(5, 50, (200, 20)), torch.ones(200, 20, dtype=torch.bool)


def test_exactly_the_share_is_drawn_and_labels_say_what_changed(tokens):
    input_ids, maskable = tokens
    replaced = corrupt(input_ids, maskable, Unigram(torch.tensor([0] * 50 + [1] * 50)))
    assert (replaced.is_replaced.sum(-1) == 3).all(), "15 % of 20, and no draw can equal an original"
    assert torch.equal(replaced.is_replaced, replaced.input_ids != input_ids)


def test_a_draw_that_equals_the_original_is_original():
    input_ids = torch.full((50, 20), 7)
    replaced = corrupt(input_ids, torch.ones(50, 20, dtype=torch.bool), Unigram(torch.arange(10) == 7))
    assert not replaced.is_replaced.any()
    assert torch.equal(replaced.input_ids, input_ids)


def test_only_maskable_tokens_change(tokens):
    input_ids, maskable = tokens
    maskable = maskable.clone()
    maskable[:, ::2] = False
    replaced = corrupt(input_ids, maskable, Unigram(torch.tensor([0] * 50 + [1] * 50)), probability=0.5)
    assert replaced.is_replaced.any()
    assert not replaced.is_replaced[~maskable].any()


def test_a_share_of_the_rows_is_left_alone(tokens):
    input_ids, maskable = tokens
    replaced = corrupt(input_ids, maskable, Unigram(torch.tensor([0] * 50 + [1] * 50)), share_of_rows=0.5)
    assert 70 < replaced.is_replaced.any(-1).sum() < 130
