"""Files are written completely or not at all, with the mode from the umask; signals can be delayed."""

import os
import signal
import threading
from contextlib import contextmanager

import pytest
from small_language import largest_file

from electra_kernels.files import replace_whole, stop_signals_deferred, write_whole


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
