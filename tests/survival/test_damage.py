"""Damaged checkpoints, full disks and other numbers of ranks."""

import contextlib
import shutil
import subprocess
import threading

import pytest
from safetensors.torch import load_file

from survival.runs import (
    STEPS,
    Run,
    check_end,
    check_model,
    checkpoints,
    finished,
    reached,
    records,
    weight_files,
    weights,
)


@pytest.fixture
def stopped(data, uninterrupted, tmp_path):
    """A run with the checkpoints step-50 and step-60 of a run that is finished, which can be damaged; its options."""
    shutil.copytree(uninterrupted(), tmp_path / "run")
    return tmp_path / "run", ["--data", data, "--steps", STEPS]


def cut(folder):
    path = next(folder.glob("*.distcp"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_metadata(folder):
    (folder / ".metadata").unlink()


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize("damage", [cut, without_metadata, empty])
def test_of_a_damaged_checkpoint_the_older_one_is_used(stopped, uninterrupted, damage):
    output, options = stopped
    damage(output / "checkpoints" / f"step-{STEPS}")
    page = finished(output, *options).stderr()
    (line,) = [line for line in page.splitlines() if f"step-{STEPS}" in line]
    assert "cannot be loaded" in line or "is passed over" in line
    assert f"continuing at step {STEPS - 10} of" in page
    assert weights(output) == weights(uninterrupted())
    check_end(output, STEPS)


IN_FLOAT32 = """
import sys
import electra_kernels.training.optimizers as optimizers
import electra_kernels.training.trainer as trainer
from electra_kernels.commands.main import main

trainer.has_native_bfloat16 = optimizers.has_native_bfloat16 = lambda device: False
sys.exit(main())
"""


def test_another_number_of_ranks_continues(data, tmp_path):
    """1 → 2 → 1 ranks. Rounding alone differs, also by micro-batch; bfloat16 and Muon, which enlarge it, are off."""
    script = tmp_path / "in_float32.py"
    script.write_text(IN_FLOAT32)
    options = ["--data", data, "--steps", STEPS, "--learning-rate", "1e-3"]
    whole, output = tmp_path / "whole", tmp_path / "run"
    finished(whole, *options, "--micro-batch", "8", command=[script])
    for ranks, step in ((1, 10), (2, 30)):
        run = Run(output, *options, ranks=ranks, command=[script])
        assert run.wait_until(lambda run: f"step-{step}" in checkpoints(run.output))  # noqa: B023
        run.kill()
        assert ("continuing at step" in run.stderr()) == (ranks == 2)
    assert "continuing at step" in finished(output, *options, command=[script]).stderr()
    check_end(output, STEPS)
    differences = []
    for folder, path in weight_files(whole).items():
        one, other = load_file(path), load_file(weight_files(output)[folder])
        differences += [(one[name] - other[name]).abs().max().item() for name in one]
    difference = max(differences)
    print("largest difference of a weight:", difference)
    assert difference < 1e-5


@contextlib.contextmanager
def small_disk(folder, mebibytes):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount one: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # a test that fails leaves its run there


def fill(disk, but=0):
    """Leave ``but`` bytes."""
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - but))


@contextlib.contextmanager
def kept_full(disk):
    """Within the block a file takes all room, also that of unfinished files which a run removes meanwhile."""
    ends = threading.Event()

    def take_room():
        with open(disk / "filler", "wb", buffering=0) as filler:
            while not ends.wait(0.01):
                with contextlib.suppress(OSError):
                    while filler.write(bytes(64 * 1024)):
                        pass

    thread = threading.Thread(target=take_room)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        (disk / "filler").unlink()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_disk_that_fills_up(data, uninterrupted, tmp_path, ranks):
    options = ["--data", data, "--steps", STEPS]
    with small_disk(tmp_path / "disk", 40) as disk:
        output = disk / "run"
        run = Run(output, *options, ranks=ranks)
        assert run.wait_until(reached(10))
        run.wait_until(lambda run: "step-10" in checkpoints(output))
        with kept_full(disk):
            assert run.wait_until(lambda run: "the model of step 30 could not be written" in run.stderr())
            assert checkpoints(output)
            assert all(name.endswith(("step-10", "step-20", ".partial")) for name in checkpoints(output))
            assert check_model(output)
        assert run.wait() == 0, run.stderr()
        lines = run.stderr().splitlines()
        assert any("checkpoint of step" in line and "No space left on device" in line for line in lines)
        assert run.errors() == []
        assert weights(output) == weights(uninterrupted(ranks))
        check_end(output, STEPS)


def test_a_disk_that_stays_full(data, uninterrupted, tmp_path):
    """The training ends with a line, and the same command makes up for what is missing."""
    options = ["--data", data, "--steps", STEPS]
    with small_disk(tmp_path / "disk", 40) as disk:
        output = disk / "run"
        run = Run(output, *options)
        assert run.wait_until(reached(10))
        run.wait_until(lambda run: "step-10" in checkpoints(output))
        with kept_full(disk):
            assert run.wait() == 2
            (error,) = run.errors()
            assert "make room, then the same command goes on" in error
            assert check_model(output)
        finished(output, *options)
        assert weights(output) == weights(uninterrupted())


@pytest.mark.parametrize("room", [0, 4_096])
def test_a_disk_that_is_full_from_the_beginning(data, tmp_path, room):
    with small_disk(tmp_path / "disk", 1) as disk:
        fill(disk, room)
        run = Run(disk / "run", "--data", data, "--steps", STEPS)
        assert run.wait() == 2
        assert len(run.errors()) == 1
        assert records(disk / "run") == []
