import pytest
import torch

from electra_kernels.models import Discriminator, Encoder
from electra_kernels.models.unigram import Unigram
from electra_kernels.pretraining.objectives import (
    CorruptedRows,
    CorruptedTokens,
    ReplacedTokenDetection,
    take,
)

CPU = torch.device("cpu")


@pytest.fixture
def tokens(rows):
    return take(rows, torch.arange(64), CPU)


def _objectives(model, encoder_config, counts):
    unigram = Unigram(counts)
    return [
        ReplacedTokenDetection(model),
        CorruptedTokens(Discriminator(Encoder(encoder_config)), unigram),
        CorruptedRows(Discriminator(Encoder(encoder_config)), unigram),
    ]


def test_every_objective_has_one_shape(model, encoder_config, counts, tokens):
    for objective in _objectives(model, encoder_config, counts):
        loss, metrics = objective(objective.batch(tokens), 1.0)
        assert loss.shape == ()
        assert tuple(metrics) == objective.metrics
        assert all(value.shape == () and not value.requires_grad for value in metrics.values())
        loss.backward()
        assert all(parameter.grad is not None for parameter in objective.parameters())


def test_take_gives_the_rows_asked_for(rows):
    index = torch.tensor([5, 2])
    batch = take(rows, index, CPU)
    assert torch.equal(batch.input_ids, rows.input_ids[index])
    assert torch.equal(batch.attention_mask, rows.attention_mask[index])
    assert torch.equal(batch.maskable, rows.maskable[index])


def test_the_pair_gets_the_same_corrupted_rows_and_only_the_label_differs(
    model, encoder_config, counts, tokens
):
    _, per_token, per_row = _objectives(model, encoder_config, counts)
    torch.manual_seed(1)
    first = per_token.batch(tokens)
    torch.manual_seed(1)
    second = per_row.batch(tokens)
    assert torch.equal(first.replaced.input_ids, second.replaced.input_ids)
    corrupted = first.replaced.is_replaced.any(-1)
    assert 0.25 < corrupted.float().mean() < 0.75


def test_a_head_start_on_unigram_draws_trains_both(model, tokens):
    objective = ReplacedTokenDetection(model, head_start=0.5, head_start_replacements="unigram")
    _, early = objective(tokens, 0.1)
    _, late = objective(tokens, 0.9)
    assert early.keys() == late.keys() == set(objective.metrics)


def test_row_scores_rise_with_the_highest_token(encoder_config, counts):
    objective = CorruptedTokens(Discriminator(Encoder(encoder_config)), Unigram(counts))
    mask = torch.tensor([[True, True, False]])
    objective.token_scores = lambda ids, attention_mask: torch.tensor([[1.0, 2.0, 99.0]])
    expected = torch.tensor([1.0, 2.0]).logsumexp(0)
    assert objective.row_scores(torch.zeros(1, 3, dtype=torch.long), mask).item() == pytest.approx(
        expected.item()
    )
