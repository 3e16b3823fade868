"""Writing a file completely or not at all, and blocks that no signal may interrupt."""

import os
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
