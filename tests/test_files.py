"""Files and folders are written completely or not at all; signals can be delayed."""

import ctypes
import errno
import os
import signal
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from small_language import largest_file

from electra_kernels import files
from electra_kernels.files import (
    recover_folder,
    replace_folder,
    replace_whole,
    stop_signals_deferred,
    sync,
    write_whole,
)


@contextmanager
def umask(mask):
    previous = os.umask(mask)
    try:
        yield
    finally:
        os.umask(previous)


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_follows_the_umask_whatever_the_writer_chose(mask, mode, tmp_path):
    def private(path):
        path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    with umask(mask):
        write_whole(tmp_path / "a", "text")
        replace_whole(tmp_path / "b", private)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [mode, mode]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    write_whole(tmp_path / "a", "old")
    with largest_file(1_000), pytest.raises(OSError, match="File too large") as error:
        write_whole(tmp_path / "a", b"x" * 5_000)
    assert error.value.filename == str(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_an_interrupted_writer_leaves_nothing_beside_the_old_file(tmp_path):
    def interrupted(path):
        path.write_text("half")
        raise KeyboardInterrupt

    write_whole(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt):
        replace_whole(tmp_path / "a", interrupted)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_file_name_that_is_not_utf8_can_be_written(tmp_path):
    write_whole(tmp_path / "a", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a").read_text() == "caf\\udce9"


def test_a_signal_waits_for_the_end_of_the_block():
    done = []

    @stop_signals_deferred()
    def block():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_waits_for_the_end_of_the_outer_block():
    done = []

    @stop_signals_deferred()
    def outer():
        with stop_signals_deferred():
            signal.raise_signal(signal.SIGINT)
        done.append("the rest of the outer block")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert done


def test_an_ignored_signal_stays_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals_deferred():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_another_thread_has_nothing_to_delay():
    done = []

    def work():
        with stop_signals_deferred():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


# ---- folders ----


def content(text):
    """A writer of a folder with one file of ``text``, which lies in a folder of its own."""

    def write(folder):
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text(text)

    return write


def read(target):
    return (target / "inside" / "file").read_text()


def system_without_exchange(number):
    """A C library whose renameat2 fails with an error number, or that lacks it."""
    if number is None:
        return SimpleNamespace()

    def renameat2(*arguments):
        ctypes.set_errno(number)
        return -1

    return SimpleNamespace(renameat2=renameat2)


@pytest.fixture(params=["exchange", None, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def system(request, monkeypatch):
    """Systems and file systems that can exchange two names, and those that cannot."""
    if request.param != "exchange":
        monkeypatch.setattr(ctypes, "CDLL", lambda *rest, **options: system_without_exchange(request.param))


def test_a_folder_replaces_another_and_leaves_nothing_beside_it(system, tmp_path):
    for text in ("one", "two", "three"):
        replace_folder(tmp_path / "parent" / "a", content(text))
        assert read(tmp_path / "parent" / "a") == text
        assert [path.name for path in (tmp_path / "parent").iterdir()] == ["a"]


def test_remains_of_a_killed_process_are_replaced(system, tmp_path):
    for name in ("a", "a.partial", "a.previous"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("old")
    replace_folder(tmp_path / "a", content("new"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["inside"]


def test_where_two_names_can_be_exchanged_the_folder_is_never_absent(tmp_path):
    target, done, absent = tmp_path / "a", threading.Event(), []
    replace_folder(target, content("0"))
    (tmp_path / "b").mkdir()
    if not files._exchange(tmp_path / "b", target):
        pytest.skip("this file system cannot exchange two names")
    files._exchange(tmp_path / "b", target)

    def watch():
        while not done.is_set():
            if not target.exists():
                absent.append(True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(100):
        replace_folder(target, content(str(number)))
    done.set()
    watcher.join()
    assert read(target) == "99"
    assert not absent


def test_a_folder_takes_its_name_when_all_of_it_is_on_the_disk(tmp_path, monkeypatch):
    events, sync, exchange = [], files.sync, files._exchange

    def synced(path):
        events.append(path.relative_to(tmp_path).as_posix())
        sync(path)

    def exchanged(one, other):
        events.append("exchange")
        return exchange(one, other)

    replace_folder(tmp_path / "a", content("old"))
    monkeypatch.setattr(files, "sync", synced)
    monkeypatch.setattr(files, "_exchange", exchanged)
    replace_folder(tmp_path / "a", content("new"))
    assert set(events[:3]) == {"a.partial", "a.partial/inside", "a.partial/inside/file"}
    assert events[3:] == ["exchange", "."]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_folder(system, tmp_path, error):
    def fail(folder):
        content("half")(folder)
        raise error

    replace_folder(tmp_path / "a", content("old"))
    with pytest.raises(type(error)):
        replace_folder(tmp_path / "a", fail)
    assert read(tmp_path / "a") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_system_that_refuses_the_exchange_is_an_error_with_the_name_of_the_folder(tmp_path, monkeypatch):
    replace_folder(tmp_path / "a", content("old"))
    monkeypatch.setattr(ctypes, "CDLL", lambda *rest, **options: system_without_exchange(errno.EACCES))
    with pytest.raises(PermissionError) as error:
        replace_folder(tmp_path / "a", content("new"))
    assert error.value.filename == str(tmp_path / "a")
    assert read(tmp_path / "a") == "old"


def test_a_process_that_is_killed_between_two_renames_loses_nothing(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    rename = os.replace

    def killed(source, target):
        rename(source, target)
        raise Killed

    replace_folder(tmp_path / "a", content("old"))
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        replace_folder(tmp_path / "a", content("new"))
    monkeypatch.undo()
    assert not (tmp_path / "a").exists()
    recover_folder(tmp_path / "a")
    assert read(tmp_path / "a") == "old"
    replace_folder(tmp_path / "a", content("newer"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_recovery_leaves_a_folder_that_is_there_alone(tmp_path):
    recover_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    replace_folder(tmp_path / "a", content("new"))
    content("old")((tmp_path / "a.previous").mkdir() or tmp_path / "a.previous")
    recover_folder(tmp_path / "a")
    assert read(tmp_path / "a") == "new"


def test_a_file_system_that_cannot_sync_folders_is_no_fault(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(os, "fsync", refuse)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync(tmp_path / "file")
