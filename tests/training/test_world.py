"""Ranks agree: on results, on errors, on the same options. One process is a world of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from electra_kernels.errors import AgreedError, UserError
from electra_kernels.training.world import World, join_world

SCRIPT = Path(__file__).with_name("world_ranks.py")


@pytest.fixture(scope="module")
def ranks():
    """The results of two ranks of `world_ranks.py`."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    together = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT],
            stdout=subprocess.PIPE,
            env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank, "CUDA_VISIBLE_DEVICES": ""},
        )
        for rank in "01"
    ]
    pages = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [json.loads(page.splitlines()[-1]) for page in pages]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sum", [3, 20]),
        ("largest", -1.5),
        ("gather", ["of rank 0", "of rank 1"]),
        ("concatenate", [0, 10, 11]),
        ("failure of rank 0", ["AgreedError", "no text"]),
        ("failure of rank 1", ["AgreedError", "rank 1: the file: No space left on device"]),
        ("on main", ["returned", "made by 0"]),
        ("failure on main", ["AgreedError", "no text"]),
        ("same", ["returned", None]),
        ("different", ["AgreedError", "rank 1 has --seed 4, should be 3 as rank 0"]),
    ],
)
def test_all_ranks_have_the_same(ranks, name, value):
    assert [results[name] for results in ranks] == [value, value]


def test_each_rank_knows_which_it_is(ranks):
    assert [results["rank"] for results in ranks] == [[0, 2, 2, True], [1, 2, 2, False]]
    assert [results["everywhere"] for results in ranks] == [["returned", 0], ["returned", 1]]


def test_one_process_is_a_world_of_its_own():
    world = World()
    assert world.is_main
    assert world.sum(values := torch.tensor([1, 2])) is values
    assert world.largest(-3.5) == -3.5
    assert world.gather("a") == ["a"]
    assert world.concatenate(torch.arange(3)).tolist() == [0, 1, 2]
    assert world.everywhere(lambda: 5) == world.on_main(lambda: 5) == 5
    world.require_same("--seed", object())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("no text"), "no text"),
        (OSError(28, "No space left on device", "file"), "file: No space left on device"),
        (OSError("the disk is gone"), "the disk is gone"),
    ],
)
def test_an_error_of_the_user_or_the_disk_is_one_line(error, said):
    def work():
        raise error

    for call in (World().everywhere, World().on_main):
        with pytest.raises(AgreedError) as agreed:
            call(work)
        assert str(agreed.value) == said


def test_an_error_of_the_program_is_not_hidden():
    def work():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        World().everywhere(work)


def test_without_torchrun_one_process_has_groups_until_the_block_ends(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with join_world() as world:
        assert (world.rank, world.size, world.local_size) == (0, 1, 1)
        assert None not in (world.control, world.saving)
    assert not dist.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    said = r"LOCAL_RANK is 2, should be below .* 2: lower --nproc-per-node"
    with pytest.raises(UserError, match=said), join_world():
        pytest.fail("the groups were made")
    assert not dist.is_initialized()
