"""SIGTERM and SIGINT: all ranks save the same step and stop, and the same command continues."""

import signal
import time

import pytest

from survival.runs import STEPS, Run, check_end, check_model, checkpoints, finished, reached, records, weights


@pytest.mark.parametrize(
    ("number", "word", "status"), [(signal.SIGTERM, "terminated", 143), (signal.SIGINT, "interrupted", 130)]
)
def test_one_process(data, uninterrupted, tmp_path, number, word, status):
    options, output = ["--data", data, "--steps", STEPS], tmp_path / "run"
    run = Run(output, *options)
    assert run.wait_until(reached(10))
    run.signal(number)
    assert run.wait() == status
    end = records(output)[-1]
    assert (end["kind"], end["reason"]) == ("end", number.name)
    step = end["step"]
    assert run.errors() == [f"{word}; step {step} of {STEPS} is saved; the same command continues there"]
    assert f"step-{step}" in checkpoints(output)
    assert check_model(output)
    assert f"continuing at step {step} of {STEPS}" in finished(output, *options).stderr()
    assert weights(output) == weights(uninterrupted())
    check_end(output, STEPS)


@pytest.mark.parametrize(
    ("number", "ranks"),
    [
        (signal.SIGTERM, [1]),
        (signal.SIGTERM, [0]),
        # As a terminal or a scheduler does: to all of them and to torchrun, which passes it on.
        (signal.SIGINT, None),
    ],
)
def test_two_ranks(data, uninterrupted, tmp_path, number, ranks):
    options, output = ["--data", data, "--steps", STEPS], tmp_path / "run"
    run = Run(output, *options, ranks=2)
    assert run.wait_until(reached(10))
    run.signal(number, ranks)
    if ranks is None:
        run.process.send_signal(number)
    assert run.wait() == 1  # of torchrun; its table has the status of the ranks
    step = records(output)[-1]["step"]
    # When the first rank has ended, torchrun stops the other, which may be about to end by itself.
    (error,) = [line for line in run.errors() if line not in ("terminated", "interrupted")]
    assert error.endswith(f"step {step} of {STEPS} is saved; the same command continues there")
    if ranks:
        assert run.stderr().rpartition("Root Cause")[2].count("exitcode  : 143") == 1
    assert f"step-{step}" in checkpoints(output)
    finished(output, *options, ranks=2)
    assert weights(output) == weights(uninterrupted(2))
    check_end(output, STEPS)


def test_during_the_trials_before_the_first_step(data, tmp_path):
    output = tmp_path / "run"
    options = ["--data", data, "--minutes", "1"]
    run = Run(output, *options)
    assert run.wait_until(lambda run: "rows at once" in run.stderr())
    time.sleep(0.5)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.errors() == ["terminated"]
    assert not (output / "electra-kernels.lock").exists()
    assert records(output) == []


def test_during_the_last_evaluation_and_the_report(data, uninterrupted, tmp_path):
    """The training is finished, so only the report is made again."""
    output, options = tmp_path / "run", ["--data", data, "--steps", STEPS]
    run = Run(output, *options)
    assert run.wait_until(reached(STEPS))
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert len(run.errors()) == 1
    assert weights(output) == weights(uninterrupted())
    run = Run(output, *options)
    assert run.wait_until(lambda run: "measuring on held-out text" in run.stderr())
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.errors() == ["terminated"]
    assert weights(output) == weights(uninterrupted())
    assert "is finished" in finished(output, *options).stderr()
    assert weights(output) == weights(uninterrupted())
    check_end(output, STEPS)
    # The last model was lost, for example because the disk was full: it comes from the checkpoint.
    (output / "model" / "discriminator" / "model.safetensors").write_bytes(b"")
    finished(output, *options)
    assert weights(output) == weights(uninterrupted())


def test_a_second_signal_ends_at_once(data, tmp_path):
    output, options = tmp_path / "run", ["--data", data, "--steps", STEPS]
    run = Run(output, *options)
    assert run.wait_until(reached(10))
    run.signal(signal.SIGINT)
    run.signal(signal.SIGINT)
    assert run.wait() == 130
    assert len(run.errors()) == 1
    assert check_model(output)
