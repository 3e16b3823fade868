"""An output folder has one writer at a time, and a stale lock does not block the next one."""

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


def test_the_lock_names_its_owner_and_is_removed_at_the_end(tmp_path):
    with locked(tmp_path / "new" / "output"):
        owner = json.loads((tmp_path / "new" / "output" / LOCK).read_text())
        assert (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid())
    assert list((tmp_path / "new" / "output").iterdir()) == []


def test_the_lock_is_removed_when_the_run_fails(tmp_path):
    with pytest.raises(ValueError, match="a mistake"), locked(tmp_path):
        raise ValueError("a mistake")
    with locked(tmp_path):
        pass


def test_the_error_of_a_second_writer_names_the_first_and_the_file_to_delete(tmp_path):
    with locked(tmp_path):
        with pytest.raises(UserError) as error, locked(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()
    assert f"process {os.getpid()} on {socket.gethostname()}" in str(error.value)
    assert str(tmp_path / LOCK) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    write_lock(tmp_path, pid=dead_pid())
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="start times are read from /proc")
def test_a_later_process_with_the_same_pid_is_not_the_owner(tmp_path):
    write_lock(tmp_path, pid=os.getppid(), started="another boot 17")
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_live_process_with_an_unknown_start_time_is_the_owner(tmp_path):
    write_lock(tmp_path, pid=os.getppid())
    with pytest.raises(UserError, match=f"process {os.getppid()}"), locked(tmp_path):
        pass


def test_the_lock_of_another_machine_is_never_taken_over(tmp_path):
    write_lock(tmp_path, host="node-17", pid=dead_pid())
    with pytest.raises(UserError, match=r"process \d+ on node-17"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).exists()


def test_an_owner_in_another_container_still_holds_the_lock(tmp_path):
    """Its pid does not exist here, but its flock is visible."""
    write_lock(tmp_path, pid=dead_pid())
    with open(tmp_path / LOCK) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="in use"), locked(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", "[1]", '{"host": "a"}', '{"host": "a", "pid": -1, "started": null}'])
def test_a_lock_without_a_readable_owner_is_left_to_the_user(content, tmp_path):
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
            time.sleep(1.5)  # longer than the other processes try
    except UserError:
        pass


def test_only_one_of_many_processes_takes_over_a_stale_lock(tmp_path):
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
