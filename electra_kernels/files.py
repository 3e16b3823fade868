"""Writing a file completely or not at all, and blocks that no signal may interrupt."""

import ctypes
import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def write_whole(target: Path, content: bytes | str) -> None:
    """Write a file beside ``target`` and move it there when it is complete. Text is encoded as UTF-8.

    Lone surrogates, with which Python represents bytes of a file name that are not UTF-8, become backslash escapes.

    Raises:
        OSError: the file cannot be written. Its ``filename`` is ``target``; the unfinished file is removed.
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    replace_whole(target, lambda unfinished: unfinished.write_bytes(data))


def replace_whole(target: Path, write: Callable[[Path], object]) -> None:
    """`write_whole` for a writer that opens the file itself.

    Args:
        target: path of the file.
        write: called with the path of the unfinished file. The mode of the result follows from the umask of the
            process, whatever mode ``write`` chooses.
    """
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with open(unfinished, "wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o7777
        write(unfinished)
        os.chmod(unfinished, mode)
        os.replace(unfinished, target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def stop_signals_deferred() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the end of the block.

    Python delivers signals in the main thread only, so in another thread there is nothing to delay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)

    # A handler that C code installed reads as None and could not be restored, so that signal is left alone.
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    replaced = {n: handler for n, handler in previous.items() if handler not in (None, signal.SIG_IGN)}
    for number in replaced:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def replace_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Write a folder beside ``target`` and put it there when it is complete and on the disk.

    Where the system can exchange two names (Linux, on local file systems), ``target`` is never absent. Elsewhere it is
    absent between two renames, and the old folder is then ``target.previous``; `recover_folder` puts it back.

    Args:
        target: path of the folder, which may exist.
        write: called with the path of an empty folder.

    Raises:
        OSError: the folder cannot be written; ``target`` is as it was, and the unfinished folder is removed.
    """
    partial, previous = unfinished_folders(target)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        for path in (*partial.rglob("*"), partial):
            sync(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # makes room on a full disk
        raise
    with stop_signals_deferred():
        if target.exists() and not _exchange(partial, target):
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(target, previous)
        if not target.exists():
            os.replace(partial, target)
    shutil.rmtree(partial, ignore_errors=True)  # the old folder, after an exchange
    shutil.rmtree(previous, ignore_errors=True)
    sync(target.parent)


def recover_folder(target: Path) -> None:
    """Put a folder back that `replace_folder` had moved away when its process was killed."""
    _, previous = unfinished_folders(target)
    if previous.exists() and not target.exists():
        os.replace(previous, target)


def unfinished_folders(target: Path) -> tuple[Path, Path]:
    """The folder in which `replace_folder` writes, and the one that may keep the old content meanwhile."""
    partial, previous = (target.with_name(f"{target.name}.{name}") for name in ("partial", "previous"))
    return partial, previous


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders at once; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    working_directory, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(working_directory, os.fsencode(one), working_directory, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk; some file systems cannot do that for folders."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)
