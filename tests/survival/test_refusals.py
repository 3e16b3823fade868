"""Wrong launches are refused in one line before the first step, and a rank that fails does not leave others waiting."""

import json
import os
import shutil
import signal

import pytest

from survival.runs import STEPS, Run, check_end, checkpoints, finished, reached, records, weights


def refused(output, *options, **how):
    """The one line with which a run ends before its first step."""
    before = records(output)
    run = Run(output, *options, **how)
    assert run.wait() == (2 if run.ranks == 1 else 1), run.stderr()
    (error,) = run.errors()
    assert records(output) == before
    return error


# Starts pretrain with options of its own on rank 1: in the environment, as a list.
DIFFERENT = """
import json, os, sys
from electra_kernels.commands.main import main
sys.exit(main(sys.argv[1:] + (json.loads(os.environ["OF_RANK_1"]) if os.environ["RANK"] == "1" else [])))
"""


@pytest.fixture
def different(tmp_path):
    path = tmp_path / "different.py"
    path.write_text(DIFFERENT)
    return [path]


def test_a_folder_that_another_run_uses(data, tmp_path):
    output, options = tmp_path / "run", ["--data", data, "--steps", STEPS]
    run = Run(output, *options)
    assert run.wait_until(reached(10))
    second = Run(output, *options)
    assert second.wait() == 2
    (error,) = second.errors()
    assert f"{output} is in use by process {run.process.pid}" in error
    assert not run.ended()
    run.kill()


def test_other_options_in_a_used_folder(data, other_data, uninterrupted):
    output = uninterrupted()
    for options, named in (
        (["--data", data, "--steps", STEPS + 10], "steps 64:60, not 64:70"),
        (["--data", data, "--steps", STEPS, "--seed", "1"], "--seed 0, not 1"),
        (["--data", other_data, "--steps", STEPS], "the data "),
    ):
        error = refused(output, *options)
        assert f"holds a run with {named}" in error


def test_ranks_that_differ(data, other_data, tmp_path, different):
    for of_rank_1, named in (
        (["--data", other_data], "rank 1 has the data "),
        (["--shard"], "rank 1 has --shard True, should be False as rank 0"),
        (["--output", tmp_path / "elsewhere"], "rank 1 has --output "),
    ):
        environment = {"OF_RANK_1": json.dumps([*map(str, of_rank_1)])}
        options = ["--data", data, "--steps", STEPS]
        error = refused(tmp_path / "run", *options, ranks=2, command=different, environment=environment)
        assert error.startswith(named)


def test_a_batch_that_does_not_divide(data, tmp_path):
    error = refused(tmp_path / "run", "--data", data, "--steps", STEPS, "--batch-size", 7, ranks=2)
    assert error == "--batch-size is 7, should be a multiple of the number of ranks, 2"


def test_resume(data, uninterrupted, tmp_path):
    whole, output = uninterrupted(), tmp_path / "run"
    options = ["--data", data, "--steps", STEPS]
    step_50 = whole / "checkpoints" / "step-50"
    error = refused(output, *options, "--resume", tmp_path / "nowhere")
    assert error.startswith(f"--resume is {tmp_path / 'nowhere'}, should be auto, never or a folder such as")
    # A checkpoint of another run.
    assert f"continuing at step 50 of {STEPS}" in finished(output, *options, "--resume", step_50).stderr()
    assert weights(output) == weights(whole)
    assert [r["step"] for r in records(output) if r["kind"] == "step"] == [60]
    # The same command does not begin again.
    assert "is finished" in finished(output, *options, "--resume", step_50).stderr()
    # Another one does not replace the run.
    other = shutil.copytree(step_50, tmp_path / "step-50")
    assert f"holds a run that did not begin with {other}" in refused(output, *options, "--resume", other)
    # One of its own: back to it.
    shutil.copytree(step_50, output / "checkpoints" / "step-50")
    page = finished(output, *options, "--resume", output / "checkpoints" / "step-50").stderr()
    assert f"continuing at step 50 of {STEPS}" in page
    assert weights(output) == weights(whole)
    # Never: from the beginning, in place of the run.
    run = Run(output, *options, "--resume", "never")
    assert run.wait_until(lambda run: run.started() and "step-10" in checkpoints(output))
    assert records(output)[0]["kind"] == "start"
    assert records(output)[0]["step"] == 0
    run.kill()
    finished(output, *options)
    assert weights(output) == weights(whole)
    check_end(output, STEPS)


# Rank 1 fails alone after some calls: while it opens the data, in the first step, or in a later one while a checkpoint
# is being written.
FAILS = """
import os, sys
from electra_kernels.commands.main import main
import electra_kernels.commands.run_parts as run_parts
from electra_kernels.data.rows import PackedRows

real, calls = {place}, []

def fail(*arguments):
    calls.append(None)
    if len(calls) > {calls}:
        raise {error}
    return real(*arguments)

if os.environ["RANK"] == "1":
    {place} = fail
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("place", "calls", "error", "line"),
    [
        (
            "run_parts.open_cache",
            0,
            "PermissionError(13, 'Permission denied', 'tokens.bin')",
            "rank 1: tokens.bin: Permission denied",
        ),
        (
            "PackedRows.batch",
            0,
            "OSError(5, 'Input/output error', 'tokens.bin')",
            "tokens.bin: Input/output error",
        ),
        ("PackedRows.batch", 12, "MemoryError('no memory')", "out of memory: no memory"),
    ],
)
def test_a_rank_that_fails_alone_ends_the_other(data, tmp_path, place, calls, error, line):
    script = tmp_path / "fails.py"
    script.write_text(FAILS.format(place=place, calls=calls, error=error))
    run = Run(tmp_path / "run", "--data", data, "--steps", STEPS, ranks=2, command=[script])
    assert run.wait(60) == 1
    ours = [text for text in run.errors() if "has lost another rank" not in text and text != "terminated"]
    assert ours == [line]
    assert len(run.errors()) <= 2
    assert not run.pids


def test_ranks_that_outlive_torchrun_keep_the_folder(data, tmp_path):
    """torchrun is killed alone: its ranks go on, so a second launch is refused."""
    output, options = tmp_path / "run", ["--data", data, "--steps", 10_000]
    run = Run(output, *options, ranks=2)
    assert run.wait_until(reached(10))
    ranks = run.pids
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    try:
        second = Run(output, *options, ranks=2)
        assert second.wait() == 1
        (error,) = second.errors()
        assert "is in use by process" in error
    finally:
        for pid in ranks:
            os.kill(pid, signal.SIGKILL)
