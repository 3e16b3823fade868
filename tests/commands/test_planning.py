"""What is decided before the first step: asked for, known from the run that is continued, or tried."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from electra_kernels.commands import planning
from electra_kernels.commands.planning import count_flops, plan_run
from electra_kernels.commands.run_options import Options
from electra_kernels.training.hardware import device_name, step_flops
from electra_kernels.training.objectives import ReplacedTokenDetection, token_batch
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Phase, Schedule, one_phase
from electra_kernels.training.trainer import Execution, Trainer
from electra_kernels.training.world import World

RECIPE = Recipe(length=16, batch_size=8, learning_rate=1e-3, warmup=0.1, steps=100, least_steps=60)
SOURCES = {16: "rows of 16", 32: "rows of 32"}


@pytest.fixture
def plan(monkeypatch):
    """Plan a run where the trials choose 4 rows and 2 threads; returns the plan, what was tried, and the lines."""
    threads = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("RANK", raising=False)

    def planned(known=None, ranks=1, seconds=(0.1,), **options):
        tried, lines, left = [], [], iter(seconds)

        def choose(name, value):
            return lambda trainer, rows, *rest: (tried.append((name, rows)), value)[1]

        monkeypatch.setattr(planning, "Trainer", lambda *arguments, **options: None)
        monkeypatch.setattr(planning, "choose_micro_batch", choose("micro-batch", 4))
        monkeypatch.setattr(planning, "choose_threads", choose("threads", 2))
        monkeypatch.setattr(
            planning, "step_seconds", lambda trainer, rows: (tried.append(("seconds", rows)), next(left))[1]
        )
        result = plan_run(
            Options(Path("out"), **options),
            RECIPE,
            lambda: None,
            SOURCES,
            known,
            World(size=ranks),
            SimpleNamespace(log=lines.append),
        )
        assert torch.get_num_threads() == result.threads
        return result, tried, lines

    yield planned
    torch.set_num_threads(threads)


def known_run(ranks=1, device=None, **execution):
    same = {"micro_batch": 2, "threads": 1, "ranks": ranks, "shard": False, "checkpoint_layers": False}
    run = {"device": device or device_name(torch.device("cpu"))}
    return {"schedule": "16:77", "execution": {**same, "compile": False, **execution}, "run": run}


def test_rows_and_threads_are_tried_with_the_longest_rows(plan):
    result, tried, lines = plan()
    assert (result.execution, result.threads) == (Execution(micro_batch=4), 2)
    assert str(result.schedule) == "16:100"
    assert tried == [("micro-batch", "rows of 32"), ("threads", "rows of 32")]
    assert lines == ["ranks: 1; rows at once on a rank: 4; threads of a rank: 2"]


def test_nothing_is_tried_that_the_user_has_decided(plan):
    result, tried, _ = plan(
        micro_batch=3, threads=1, steps=5, shard=True, compile=True, checkpoint_layers=True
    )
    assert result.execution == Execution(3, shard=True, checkpoint_layers=True, compile=True)
    assert (result.threads, str(result.schedule), tried) == (1, "16:5", [])


def test_the_variable_of_openmp_decides_the_threads_unless_torchrun_has_set_it(plan, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result, tried, _ = plan()
    assert result.threads == 1
    assert [name for name, _ in tried] == ["micro-batch"]
    monkeypatch.setenv("RANK", "0")
    assert plan()[0].threads == 2


@pytest.mark.parametrize("value", ["0", "", "4,2", "-1"])
def test_a_variable_of_openmp_that_is_no_number_is_not_used(plan, monkeypatch, value):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert plan()[0].threads == 2


def test_a_run_that_is_continued_keeps_its_schedule_rows_and_threads(plan):
    result, tried, _ = plan(known_run(), minutes=3.0)
    assert (str(result.schedule), result.execution.micro_batch, result.threads) == ("16:77", 2, 1)
    assert tried == []


def test_a_run_that_is_continued_on_other_ranks_keeps_its_schedule_only(plan):
    result, tried, _ = plan(known_run(ranks=2), ranks=4)
    assert (str(result.schedule), result.execution.micro_batch, result.threads) == ("16:77", 4, 2)
    assert [name for name, _ in tried] == ["micro-batch", "threads"]


@pytest.mark.parametrize("known", [known_run(device="NVIDIA A10"), known_run(checkpoint_layers=True)])
def test_what_fitted_elsewhere_or_with_checkpointed_layers_is_tried_again(plan, known):
    result, tried, _ = plan(known)
    assert (str(result.schedule), result.execution.micro_batch) == ("16:77", 4)
    assert [name for name, _ in tried] == ["micro-batch", "threads"]


def test_an_option_may_change_how_a_continued_run_is_computed(plan):
    result, _, _ = plan(known_run(), micro_batch=8, threads=2)
    assert (result.execution.micro_batch, result.threads) == (8, 2)


def test_minutes_become_steps_at_the_measured_rate(plan):
    result, tried, lines = plan(minutes=1.0, seconds=[0.25])
    assert str(result.schedule) == "16:240"
    assert tried[-1] == ("seconds", "rows of 16")
    assert lines[-1] == "240 steps, about 1.0 minutes"


def test_minutes_that_would_show_nothing_become_longer_and_that_is_said(plan):
    result, _, lines = plan(minutes=0.05, seconds=[0.25])
    assert str(result.schedule) == f"16:{RECIPE.least_steps}"
    assert lines[-1] == (
        "60 steps, about 0.2 minutes instead of 0.05: with fewer steps this configuration shows nothing"
    )


def test_a_phase_has_its_share_of_the_minutes_at_its_own_rate():
    asked = Schedule((Phase(16, 75), Phase(32, 25)))
    schedule = planning._in_minutes(2.0, asked, [0.1, 0.3], least=1)
    assert [phase.length for phase in schedule.phases] == [16, 32]
    first, second = (phase.steps for phase in schedule.phases)
    assert 0.1 * first + 0.3 * second == pytest.approx(120, rel=0.01)
    assert first == 3 * second


@pytest.fixture
def counted(electra_config, facts, rows, monkeypatch):
    """Count the FLOPs of steps whose layers are checkpointed; returns them, and the rows of each forward pass."""
    monkeypatch.setattr(planning, "device_peak_flops", lambda device: 1e12)

    def count(error=None):
        sizes = []

        class Watched(ReplacedTokenDetection):
            def batch(self, tokens, seed):
                sizes.append(len(tokens.input_ids))
                if error is not None:
                    raise error
                return super().batch(tokens, seed)

        execution = Execution(micro_batch=8, checkpoint_layers=True)
        trainer = Trainer(
            ReplacedTokenDetection(electra_config, facts),
            RECIPE,
            one_phase(16, 4),
            seed=0,
            execution=execution,
        )
        return count_flops(lambda: Watched(electra_config, facts), trainer, {16: rows}), sizes

    return count


def test_operations_are_counted_with_less_memory_than_a_step_needs(counted, electra_config, facts, rows):
    """Without checkpoints, the rows of a micro-batch could need more memory than the device has."""
    (flops,), sizes = counted()
    assert sizes == [2]
    whole = Trainer(ReplacedTokenDetection(electra_config, facts), RECIPE, one_phase(16, 4), seed=0)
    batch = token_batch(rows, torch.arange(8), torch.device("cpu"))
    assert flops == pytest.approx(step_flops(lambda: whole.step(batch)), rel=1e-3)


def test_operations_that_the_memory_does_not_suffice_to_count_are_not_known(counted):
    assert counted(torch.OutOfMemoryError())[0] is None
