"""Choices of the trials before a training, with a clock that the tests set, and one real trial."""

import itertools
import os
from types import SimpleNamespace

import pytest
import torch

from electra_kernels.errors import AgreedError
from electra_kernels.training import calibration
from electra_kernels.training.calibration import (
    choose_micro_batch,
    choose_threads,
    step_seconds,
    steps_of_minutes,
)
from electra_kernels.training.objectives import ReplacedTokenDetection
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Trainer
from electra_kernels.training.world import World

GIB = 2.0**30


@pytest.fixture
def trial(monkeypatch):
    """Choose a micro-batch where ``count`` rows take ``seconds(count)``; returns the choice and the counts tried."""

    def choose(seconds, share=64, world=None, free=lambda tried: 8 * GIB):
        tried = []

        def part_seconds(trainer, rows, count):
            tried.append(count)
            return seconds(count)

        monkeypatch.setattr(calibration, "_part_seconds", part_seconds)
        monkeypatch.setattr(calibration, "_free_memory", lambda: free(tried))
        rows = SimpleNamespace(length=512)
        return choose_micro_batch(None, rows, share, world or World()), tried

    return choose


def test_the_number_of_rows_doubles_while_that_is_faster(trial):
    assert trial(lambda count: 1 + 0.1 * count) == (64, [1, 2, 4, 8, 16, 32, 64])


def test_all_rows_of_the_rank_are_tried_also_if_they_are_no_power_of_two(trial):
    assert trial(lambda count: 1 + 0.1 * count, share=24) == (24, [1, 2, 4, 8, 16, 24])
    assert trial(lambda count: 1.0, share=1) == (1, [1])


def test_the_trials_end_where_more_rows_are_slower(trial):
    seconds = {1: 1.0, 2: 1.1, 4: 1.3, 8: 2.8}
    assert trial(seconds.__getitem__) == (4, [1, 2, 4, 8])


def test_the_trials_end_where_the_memory_of_the_device_does_not_suffice(trial):
    def seconds(count):
        if count == 16:
            raise torch.OutOfMemoryError
        return 1.0

    assert trial(seconds) == (8, [1, 2, 4, 8, 16])


def test_a_row_that_does_not_fit_is_one_line(trial):
    def seconds(count):
        raise torch.OutOfMemoryError

    with pytest.raises(
        AgreedError, match=r"a row of 512 tokens does not fit .* --checkpoint-layers .* --micro-batch"
    ):
        trial(seconds)


def test_a_tenth_of_the_memory_of_a_gpu_stays_free(trial, monkeypatch):
    """The exchange between ranks needs memory that no trial has used."""
    counts = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 - 12 * counts[-1], 100))
    seconds = lambda count: counts.append(count) or 1.0  # noqa: E731
    assert trial(seconds, world=World(device=torch.device("cuda"))) == (4, [1, 2, 4, 8])


@pytest.mark.parametrize(("local_size", "tried"), [(1, [1, 2, 4, 8]), (4, [1, 2])])
def test_the_trials_end_before_the_memory_of_the_machine_is_full(trial, local_size, tried):
    """One row takes 1/16 of the memory during its trial; the ranks of a machine share it."""
    is_after = itertools.cycle((False, True))

    def free(tried):
        return (16 - (tried[-1] if next(is_after) else 0)) * GIB

    choice = trial(lambda count: 1.0, world=World(local_size=local_size), free=free)
    assert choice == (tried[-1], tried)


def test_all_ranks_take_the_smallest_choice_of_any_of_them(trial):
    """``largest`` gets the negative choice; here another rank has found 4."""
    world = SimpleNamespace(device=torch.device("cpu"), local_size=1, largest=lambda value: max(value, -4))
    assert trial(lambda count: 1.0, world=world)[0] == 4


@pytest.fixture
def threads(monkeypatch):
    """Choose threads on a machine of 8 cores where a step with n threads takes ``seconds[n]``."""
    before = torch.get_num_threads()

    def choose(seconds, world):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8))
        measured = lambda trainer, rows, count: seconds[torch.get_num_threads()]  # noqa: E731
        monkeypatch.setattr(calibration, "_part_seconds", measured)
        chosen = choose_threads(None, None, 4, world)
        assert torch.get_num_threads() == chosen
        return chosen

    yield choose
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "local_size", "chosen"),
    [
        ({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.3}, 1, 8),
        ({1: 1.0, 2: 0.6, 4: 0.59}, 1, 2),
        ({1: 1.0, 2: 3.0}, 1, 1),
        ({1: 1.0, 2: 0.6}, 4, 2),
        ({1: 1.0}, 16, 1),
    ],
    ids=["all cores", "hardly faster", "a busy machine", "cores of a rank", "more ranks than cores"],
)
def test_threads_double_while_that_is_faster_by_more_than_noise(threads, seconds, local_size, chosen):
    assert threads(seconds, World(local_size=local_size)) == chosen


def test_the_ranks_try_only_the_threads_that_every_machine_has(threads):
    """Otherwise one rank would wait for an answer that the others never give; here another machine has 2 cores."""
    world = SimpleNamespace(device=torch.device("cpu"), local_size=1, largest=lambda value: max(value, -2))
    assert threads({1: 1.0, 2: 0.6}, world) == 2


def test_threads_stay_as_they_are_on_a_gpu(threads):
    assert threads({}, SimpleNamespace(device=torch.device("cuda"))) == torch.get_num_threads()


@pytest.mark.parametrize("minutes", [0.5, 7.0])
def test_the_steps_of_all_phases_take_the_minutes_together(minutes):
    steps = steps_of_minutes(minutes, [0.01, 0.04], [0.75, 0.25])
    assert steps[0] * 0.01 + steps[1] * 0.04 == pytest.approx(60 * minutes, rel=0.01)
    assert steps[0] == pytest.approx(3 * steps[1], rel=0.01)


def test_every_phase_has_a_step():
    assert steps_of_minutes(0.001, [5.0, 5.0], [0.9, 0.1]) == [1, 1]


def test_a_trial_measures_steps_of_a_real_training(electra_config, facts, rows, monkeypatch):
    monkeypatch.setattr(calibration, "_SECONDS", 0.0)
    recipe = Recipe(length=16, batch_size=8, learning_rate=1e-3, warmup=0.1, steps=100)
    objective = ReplacedTokenDetection(electra_config, facts)
    trainer = Trainer(objective, recipe, one_phase(16, 100), seed=3)
    assert 0 < step_seconds(trainer, rows) < 10
    assert trainer.position.step == 8, "three to warm up and five that count"
    assert 1 <= choose_micro_batch(trainer, rows, 4, World()) <= 4
