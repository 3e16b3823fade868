"""Checkpoints on one process: whole or absent, whatever happens to the files or the disk."""

import contextlib
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch

from electra_kernels.errors import UserError
from electra_kernels.training import checkpoints as module
from electra_kernels.training.checkpoints import Checkpoints, whole_checkpoints
from electra_kernels.training.objectives import ReplacedTokenDetection
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Position, Trainer
from electra_kernels.training.world import join_world

RECIPE = Recipe(
    length=16, batch_size=8, learning_rate=3e-3, warmup=0.1, steps=30, muon_learning_rate=3e-3, head_start=0.3
)


@pytest.fixture
def world():
    with join_world() as world:
        yield world


@pytest.fixture
def make(electra_config, facts, world):
    def make():
        torch.manual_seed(0)
        objective = ReplacedTokenDetection(electra_config, facts, head_start=0.3)
        return Trainer(objective, RECIPE, one_phase(16, 30), seed=3, world=world)

    return make


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def saved(tmp_path, make, rows, world, warnings):
    """A finished trainer that has saved steps 10, 20 and 30, and its checkpoints."""
    checkpoints, trainer = Checkpoints(tmp_path / "checkpoints", world, warnings.append), make()
    for _ in trainer.train([rows]):
        checkpoints.save(trainer)
    assert checkpoints.finish()
    assert warnings == []
    return trainer, checkpoints


def restore(checkpoints, trainer, path=None):
    checkpoints.restore(trainer, path)
    return trainer


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def assert_same_weights(one, other):
    for first, second in zip(one.objective.parameters(), other.objective.parameters(), strict=True):
        assert torch.equal(first, second)


@contextlib.contextmanager
def small_disk(folder, kibibytes):
    """A file system of its own with little room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount one: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_the_newest_two_are_kept(saved):
    assert names(saved[1]) == ["step-20", "step-30"]
    assert [path.name for path in whole_checkpoints(saved[1].folder)] == ["step-30", "step-20"]


def test_a_resumed_training_equals_an_uninterrupted_one(saved, make, rows):
    trainer, checkpoints = saved
    resumed = restore(checkpoints, make(), checkpoints.folder / "step-20")
    assert resumed.position.step == 20
    assert 0 < resumed.position.tokens < trainer.position.tokens
    for _ in resumed.train([rows]):
        pass
    assert resumed.position.tokens == trainer.position.tokens
    assert_same_weights(resumed, trainer)


def test_the_newest_is_restored(saved, make):
    trainer, checkpoints = saved
    resumed = restore(checkpoints, make())
    assert resumed.position == trainer.position
    assert_same_weights(resumed, trainer)


def test_without_a_checkpoint_nothing_is_restored(tmp_path, make, world):
    checkpoints = Checkpoints(tmp_path / "nothing", world, print)
    resumed = make()
    assert not checkpoints.restore(resumed)
    assert resumed.position == Position()
    assert_same_weights(resumed, make())


def test_a_torn_checkpoint_is_passed_over_with_a_line(saved, make, warnings):
    _, checkpoints = saved
    torn = next((checkpoints.folder / "step-30").glob("*.distcp"))
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    assert restore(checkpoints, make()).position.step == 20
    assert len(warnings) == 1
    assert "step-30 cannot be loaded" in warnings[0]
    assert "\n" not in warnings[0]


def test_a_folder_without_metadata_is_no_checkpoint(saved, make, warnings):
    _, checkpoints = saved
    (checkpoints.folder / "step-30" / ".metadata").unlink()
    (checkpoints.folder / "step-40.partial").mkdir()
    assert restore(checkpoints, make()).position.step == 20
    assert warnings == [f"{checkpoints.folder / 'step-30'} is passed over: it has no .metadata"]


def test_damaged_checkpoints_do_not_displace_the_good_ones(saved, make, rows, warnings):
    _, checkpoints = saved
    shutil.copytree(checkpoints.folder / "step-30", checkpoints.folder / "step-40")
    for step in (30, 40):
        for path in (checkpoints.folder / f"step-{step}").glob("*.distcp"):
            path.write_bytes(b"")
    shutil.copytree(checkpoints.folder / "step-30", checkpoints.folder / "step-50.partial")
    resumed = restore(checkpoints, make())
    assert resumed.position.step == 20
    assert len(warnings) == 2
    for _ in resumed.train([rows], lambda: resumed.position.step == 25):
        checkpoints.save(resumed)
    assert checkpoints.finish()
    assert names(checkpoints) == ["step-20", "step-25"]


def test_going_back_to_a_checkpoint_leaves_no_later_one(saved, make):
    _, checkpoints = saved
    assert restore(checkpoints, make(), checkpoints.folder / "step-20").position.step == 20
    assert names(checkpoints) == ["step-20"]


def test_a_path_without_a_checkpoint_is_refused(tmp_path, saved, make, warnings):
    with pytest.raises(
        UserError, match=r"--resume is .*elsewhere, should be auto, never or a folder such as"
    ):
        restore(saved[1], make(), tmp_path / "elsewhere")
    assert warnings == []


def test_if_all_are_damaged_the_user_is_told(saved, make):
    _, checkpoints = saved
    for path in checkpoints.folder.glob("*/*.distcp"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint can be read; .*step-20 cannot be loaded"):
        restore(checkpoints, make())


def test_a_full_disk_keeps_the_older_checkpoint_and_the_training(tmp_path, make, rows, world, warnings):
    trainer = make()
    with small_disk(tmp_path / "disk", 4096):
        checkpoints = Checkpoints(tmp_path / "disk" / "checkpoints", world, warnings.append)
        filler = tmp_path / "disk" / "filler"
        for record in trainer.train([rows]):
            checkpoints.save(trainer)
            if record.step == 10:
                assert checkpoints.finish()
                filler.write_bytes(bytes(free_bytes(filler.parent) - 4096))
            if record.step == 20:
                assert not checkpoints.finish()
                assert names(checkpoints) == ["step-10"]
                filler.unlink()
        assert checkpoints.finish()
        assert names(checkpoints) == ["step-10", "step-30"]
        assert len(warnings) == 1
        assert warnings[0].startswith("the checkpoint of step 20 could not be written: ")
        assert "No space left" in warnings[0]
        assert_same_weights(restore(checkpoints, make()), trainer)


def free_bytes(folder):
    return shutil.disk_usage(folder).free


def test_a_checkpoint_that_cannot_be_renamed_is_not_called_whole(
    tmp_path, make, world, warnings, monkeypatch
):
    def refuse(source, target):
        raise PermissionError(13, "Permission denied", str(target))

    checkpoints = Checkpoints(tmp_path / "checkpoints", world, warnings.append)
    checkpoints.save(make())
    monkeypatch.setattr(module, "os", SimpleNamespace(replace=refuse))
    assert not checkpoints.finish()
    assert "the checkpoint of step 0 could not be kept: " in warnings[0]
