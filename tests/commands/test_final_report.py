"""The measurements after a training, where a part of them is not possible."""

import json
from pathlib import Path

import pytest
import torch

from electra_kernels.commands import final_report as module
from electra_kernels.commands.final_report import final_report
from electra_kernels.commands.progress import Progress
from electra_kernels.commands.run_options import Options
from electra_kernels.training.objectives import CorruptedTokens, ReplacedTokenDetection
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.trainer import Execution

RECIPE = Recipe(length=16, batch_size=8, learning_rate=1e-3, warmup=0.1, steps=2)
EXECUTION = {
    "micro_batch": 3,
    "shard": True,
    "checkpoint_layers": True,
    "compile": False,
    "ranks": 2,
    "threads": 1,
}


@pytest.fixture
def timed(electra_config, facts, rows, monkeypatch):
    """Time the parts of a step with a profiler that is given; returns the result."""

    def time(profiler):
        monkeypatch.setattr(module, "profile_step", profiler)
        objective = ReplacedTokenDetection(electra_config, facts)
        return module._step_seconds(Options(Path("out")), objective, rows, RECIPE, EXECUTION, Progress())

    return time


def test_the_step_that_is_timed_needs_the_memory_of_a_step_of_the_training(timed):
    """One rank has its share of the rows, in the same micro-batches, with the same checkpoints."""

    def profiler(objective, rows, recipe, *, repeats, seed, execution):
        assert recipe.batch_size == 4
        assert execution == Execution(micro_batch=3, checkpoint_layers=True)
        return {"data": 1.0}

    assert timed(profiler) == {"data": 1.0}


def test_a_report_is_made_without_the_times_that_need_too_much_memory(timed, capsys):
    def profiler(*arguments, **options):
        raise torch.OutOfMemoryError

    assert timed(profiler) is None
    assert "the parts of a step are not timed" in capsys.readouterr().err


def test_a_run_whose_log_was_lost_has_a_report(electra_config, facts, rows, tmp_path):
    description = {"config": "demo", "objective": "corrupted_tokens", "recipe": {}, "run": {"steps": 2}}
    (tmp_path / "run.json").write_text(json.dumps(description))
    objective = CorruptedTokens(electra_config, facts)
    page = final_report(Options(tmp_path), objective, RECIPE, None, "", description, rows, Progress())
    assert page.exists()
    assert json.loads((tmp_path / "metrics.json").read_text())["final"] == {}
