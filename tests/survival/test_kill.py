"""kill -9 at random moments: the same command continues, and the result is that of a run that nobody disturbed."""

import random
import signal
import time

import pytest

from electra_kernels.training.checkpoints import step_of, whole_checkpoints
from survival.runs import STEPS, Run, check_end, check_model, finished, reached, weights

KILLS, LONG = 20, 240


@pytest.fixture
def has_model():
    """Checks that a model which was there once is there, and can be loaded."""
    seen = {}

    def check(output):
        there = check_model(output)
        assert there or not seen.get(output), "the model is gone"
        seen[output] = there

    return check


def during_save(run):
    return any((run.output / "checkpoints").glob("step-*.partial"))


def during_model(run):
    return (run.output / "model.partial").exists()


def kill_at_random(run, number, rng, last):
    """Kill a run: while it starts, while it saves, or at any time in a second; returns what it was writing."""
    if number % 10 == 9 or last > LONG - 60:
        time.sleep(rng.uniform(0, 5))
    else:
        run.wait_until(Run.started)
        run.wait_until(reached(last + rng.choice((0, 0, 10))))
        moment = during_model if number % 10 == 0 else during_save if number % 3 else None
        if moment:
            run.wait_until(moment, poll=0.0005)
        time.sleep(rng.uniform(0, 0.05 if moment else 1))
    assert not run.ended(), run.stderr()
    writing = [name.__name__ for name in (during_save, during_model) if name(run)]
    run.kill()
    return writing


def test_one_process_killed_twenty_times(data, tmp_path, has_model):
    rng = random.Random(0)
    options = ["--data", data, "--steps", LONG]
    finished(tmp_path / "whole", *options)
    output, moments, last = tmp_path / "killed", [], 0
    for number in range(KILLS):
        moments.append(kill_at_random(Run(output, *options), number, rng, last))
        last = max((step_of(path) for path in whole_checkpoints(output / "checkpoints")), default=0)
        print(f"killed after step {last} while writing: {moments[-1]}")
        has_model(output)
    assert sum("during_save" in writing for writing in moments) >= 5
    finished(output, *options)
    assert weights(output) == weights(tmp_path / "whole")
    check_end(output, LONG)


@pytest.mark.parametrize(("wrapper", "whole_group", "one_rank"), [((), 2, 2), (("--shard",), 1, 1)])
def test_two_ranks(data, uninterrupted, tmp_path, has_model, wrapper, whole_group, one_rank):
    rng = random.Random(len(wrapper))
    options, output = ["--data", data, "--steps", STEPS, *wrapper], tmp_path / "killed"
    for number in range(whole_group + one_rank):
        run = Run(output, *options, ranks=2)
        run.wait_until(Run.started)
        run.wait_until(during_save, poll=0.0005)
        time.sleep(rng.uniform(0, 0.3))
        if number < whole_group:
            run.kill()
        else:
            run.signal(signal.SIGKILL, [number % 2])
            begin = time.monotonic()
            assert run.wait() == 1
            assert time.monotonic() - begin < 30
            assert len(run.errors()) == 1, run.stderr()
            assert "has lost another rank" in run.errors()[0] or run.errors() == ["terminated"]
        has_model(output)
    finished(output, *options, ranks=2)
    assert weights(output) == weights(uninterrupted(2, *wrapper))
    check_end(output, STEPS)
