"""One writer for each output folder, whatever became of the last one."""

import errno
import fcntl
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from electra_kernels.errors import UserError
from electra_kernels.training import lock
from electra_kernels.training.lock import LOCK, locked


def write_lock(folder, *, host=None, pid, started=None):
    folder.mkdir(exist_ok=True)
    owner = {"host": host or socket.gethostname(), "pid": pid, "started": started}
    (folder / LOCK).write_text(json.dumps(owner))


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lock_names_its_owner_and_goes_with_it(tmp_path):
    with locked(tmp_path / "new" / "output"):
        owner = json.loads((tmp_path / "new" / "output" / LOCK).read_text())
        assert (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid())
    assert list((tmp_path / "new" / "output").iterdir()) == []


def test_the_lock_goes_when_the_run_fails(tmp_path):
    with pytest.raises(ValueError, match="a mistake"), locked(tmp_path):
        raise ValueError("a mistake")
    with locked(tmp_path):
        pass


def test_a_second_writer_is_told_who_the_first_is_and_what_to_delete(tmp_path):
    with locked(tmp_path):
        with pytest.raises(UserError) as error, locked(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert f"process {os.getpid()} on {socket.gethostname()}" in str(error.value)
    assert str(tmp_path / LOCK) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    write_lock(tmp_path, pid=dead_pid())
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="start times are read from /proc")
def test_a_process_that_got_the_number_later_is_not_the_owner(tmp_path):
    write_lock(tmp_path, pid=os.getppid(), started="another boot 17")
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_live_process_of_unknown_start_is_the_owner(tmp_path):
    write_lock(tmp_path, pid=os.getppid())
    with pytest.raises(UserError, match=f"process {os.getppid()}"), locked(tmp_path):
        pass


def test_the_lock_of_another_machine_is_never_taken_over(tmp_path):
    write_lock(tmp_path, host="node-17", pid=dead_pid())
    with pytest.raises(UserError, match=r"process \d+ on node-17"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).exists()


def test_an_owner_whose_number_means_nothing_here_still_holds_the_file(tmp_path):
    """A process in another container: no such pid here, but its flock is seen."""
    write_lock(tmp_path, pid=dead_pid())
    with open(tmp_path / LOCK) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use"), locked(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", "[1]", '{"host": "a"}', '{"host": "a", "pid": -1, "started": null}'])
def test_a_lock_that_names_nobody_is_left_to_the_user(content, tmp_path):
    (tmp_path / LOCK).write_text(content)
    with pytest.raises(UserError, match=f"delete .*{LOCK}"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == content


def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lock.os, "write", full)
    with pytest.raises(OSError, match="No space left") as error, locked(tmp_path):
        pass
    assert error.value.filename == str(tmp_path / LOCK)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_flock_still_has_one_writer(tmp_path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    write_lock(tmp_path, pid=dead_pid())
    with locked(tmp_path), pytest.raises(UserError, match="in use"), locked(tmp_path):
        pass


def _race(folder, start, wins):
    start.wait()
    try:
        with locked(folder):
            wins.put(os.getpid())
            time.sleep(1.5)  # longer than the others try
    except UserError:
        pass


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        write_lock(folder, pid=dead_pid())
        start, wins = context.Barrier(6), context.SimpleQueue()
        racers = [context.Process(target=_race, args=(folder, start, wins)) for _ in range(6)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        winners = []
        while not wins.empty():
            winners.append(wins.get())
        assert len(winners) == 1
        assert list(folder.iterdir()) == []
