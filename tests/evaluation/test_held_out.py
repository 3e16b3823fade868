import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Lock

import pytest
import torch

from electra_kernels.data.rows import spread
from electra_kernels.evaluation import held_out as module
from electra_kernels.evaluation.held_out import (
    EVALUATION_SEED,
    FixedCorruption,
    Share,
    binary_entropy,
    evaluate_electra,
    evaluate_objective,
    isolated,
    rarity,
    standard_error,
    unigram_entropy,
)
from electra_kernels.metrics import area_under_curve
from electra_kernels.models.unigram import Unigram
from electra_kernels.training.objectives import ReplacedTokenDetection
from electra_kernels.training.objectives.corrupted import corrupt

CPU = torch.device("cpu")


def test_isolated_restores_mode_and_random_state():
    module = torch.nn.Dropout()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with isolated(module):
        torch.rand(100)
        assert not module.training
        assert not torch.is_grad_enabled()
    assert module.training
    assert torch.equal(torch.rand(3), expected)


def test_isolated_draws_the_same_numbers_each_time():
    module = torch.nn.Dropout()
    draws = []
    for _ in range(2):
        with isolated(module):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_isolated_forks_the_state_of_every_gpu_without_a_warning(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state of {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append((state, device)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with isolated(torch.nn.Dropout()):
            pass
    assert restored == [("state of 0", 0), ("state of 1", 1)]


def test_the_corruption_is_fixed_and_leaves_the_random_state(held_out, counts):
    state = torch.get_rng_state()
    first, second = FixedCorruption(held_out, counts), FixedCorruption(held_out, counts)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.input_ids, second.input_ids)
    assert first.is_replaced.any()
    assert torch.equal(first.is_replaced, first.input_ids != held_out.input_ids)


def test_no_run_has_the_random_numbers_of_an_evaluation(held_out, counts):
    """Not even one with the seed of the evaluation, for rows of the same numbers."""
    index = torch.arange(len(held_out))
    fixed = FixedCorruption(held_out, counts)
    trained = corrupt(held_out.batch(index, index), Unigram(counts), EVALUATION_SEED)
    assert 0 < (fixed.is_replaced & trained.is_replaced).sum() < 0.3 * fixed.is_replaced.sum()


def test_a_perfect_score_has_an_auc_of_one_and_a_constant_score_of_a_half(held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    assert fixed.token_auc(fixed.is_replaced.float()) == 1
    assert fixed.token_auc(torch.zeros_like(fixed.input_ids)) == 0.5


def test_the_auc_of_rows_separates_rows_with_a_replaced_token(held_out, counts):
    fixed = FixedCorruption(held_out, counts, share_of_rows=0.5)
    assert fixed.row_auc(fixed.is_replaced.sum(-1)) == 1


def test_scores_cover_all_rows_in_order(held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    assert torch.equal(
        fixed.scores(lambda ids, mask: ids * mask, CPU), (fixed.input_ids * fixed.attention_mask).float()
    )


def test_the_metrics_of_a_model_are_repeatable_and_complete(model, held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    figures = evaluate_electra(model, fixed)
    assert figures == evaluate_electra(model, fixed)
    assert figures["mlm_loss"] == pytest.approx(math.log(counts.numel()), rel=0.2), "untrained: near uniform"
    assert 0 <= figures["auc_random"] <= 1
    assert 0 < figures["replaced"] < 0.2
    assert 0 <= figures["auc_samples_frequency"] <= 1
    assert figures["base_rate_entropy"] == pytest.approx(binary_entropy(figures["replaced"]))


def assert_same_figures(ours, expected):
    assert ours.keys() == expected.keys()
    for name, figure in ours.items():
        assert figure == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


def test_the_metrics_do_not_depend_on_the_batch_size(model, held_out, counts, monkeypatch):
    fixed = FixedCorruption(held_out, counts)
    monkeypatch.setattr(module, "BATCH_ROWS", len(held_out.input_ids))
    whole = evaluate_electra(model, fixed)
    monkeypatch.setattr(module, "BATCH_ROWS", 7)
    assert_same_figures(evaluate_electra(model, fixed), whole)


def shared(evaluate, ranks):
    """The figures of every rank if ``evaluate(share)`` runs for each in a thread of its own.

    One thread runs at a time, from one `gather` to the next, because random state is common to all threads.
    """
    lock, barrier, parts = Lock(), Barrier(ranks, timeout=60), [[] for _ in range(ranks)]

    def run(rank):
        def gather(part):
            call = len(parts[rank])
            parts[rank].append(part)
            lock.release()
            barrier.wait()
            lock.acquire()
            return torch.cat([own[call] for own in parts])

        with lock:
            return evaluate(Share(rank, ranks, gather))

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(run, range(ranks)))


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_that_share_the_rows_get_the_figures_of_one(model, facts, held_out, counts, ranks):
    fixed, objective = FixedCorruption(held_out, counts), ReplacedTokenDetection(model.config, facts)
    expected = evaluate_electra(model, fixed), evaluate_objective(objective, held_out)
    for figures in shared(lambda share: evaluate_electra(model, fixed, share), ranks):
        assert_same_figures(figures, expected[0])
    for figures in shared(lambda share: evaluate_objective(objective, held_out, share), ranks):
        assert_same_figures(figures, expected[1])


@pytest.mark.parametrize("rows", [0, 1, 3, 63, 64, 65, 300])
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_process_computes_the_same_number_of_batches(rows, ranks):
    index = torch.arange(rows)
    shares = [Share(rank, ranks).batches(index) for rank in range(ranks)]
    assert torch.equal(torch.cat([batch for share in shares for batch in share]), index)
    assert len({len(share) for share in shares}) == 1
    assert all(len(batch) <= module.BATCH_ROWS for share in shares for batch in share)


def test_more_processes_than_rows_get_the_same_figures(model, held_out, counts):
    fixed = FixedCorruption(spread(held_out, 2), counts)
    expected = evaluate_electra(model, fixed)
    for figures in shared(lambda share: evaluate_electra(model, fixed, share), ranks=3):
        assert_same_figures(figures, expected)


def test_the_binary_entropy_is_ln_2_at_a_half_and_0_at_the_ends():
    assert binary_entropy(0.5) == pytest.approx(math.log(2))
    assert binary_entropy(0.0) == binary_entropy(1.0) == 0


def test_rarity_is_the_negative_log_frequency():
    counts = torch.tensor([0, 1, 3])
    scores = rarity(torch.tensor([[2, 1, 0]]), counts)
    assert scores[0].tolist() == pytest.approx([-math.log(4 / 7), -math.log(2 / 7), -math.log(1 / 7)])


def test_the_unigram_entropy_is_the_loss_of_predicting_frequencies(rows, counts):
    shares = counts[counts > 0] / counts.sum()
    assert unigram_entropy(rows, counts) == pytest.approx(float(-(shares * shares.log()).sum()), rel=0.02)


def test_the_standard_error_is_that_of_random_scores():
    torch.manual_seed(0)
    labels = torch.arange(100) < 30
    areas = torch.tensor([area_under_curve(torch.rand(100), labels) for _ in range(1_000)])
    assert standard_error(30, 70) == pytest.approx(areas.std().item(), rel=0.1)
    assert math.isnan(standard_error(0, 5))
