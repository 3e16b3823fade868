"""One writer for each output folder: a lock file that names the process which owns it."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from electra_kernels.errors import UserError

LOCK = "electra-kernels.lock"
_ATTEMPTS, _PAUSE = 20, 0.05  # another process may be taking over the same stale lock
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # for example NFS without a lock service


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
        host: its machine.
        pid: its number there.
        started: boot of the machine and time since then, which tell it from a later process with the same number;
            None where the system does not say.
    """

    host: str
    pid: int
    started: str | None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder, which is made if it is missing.

    The file is created exclusively, which is atomic on network file systems too. A crash leaves it behind. It is
    taken over if its owner ran on this machine and is gone. The owner also holds ``flock`` on it where the file
    system has that, so that an owner in another container, whose pid means nothing here, counts as alive.

    Raises:
        UserError: another process holds it, or may hold it on another machine.
        OSError: the folder or the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    descriptor = _acquire(path)
    try:
        yield
    finally:
        if _is_same_file(path, descriptor):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Create the lock; returns its open descriptor."""
    for _ in range(_ATTEMPTS):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            if not _remove_stale(path):
                time.sleep(_PAUSE)
            continue
        try:
            _flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, (json.dumps(asdict(_this_process())) + "\n").encode())
        except OSError as error:
            path.unlink()
            os.close(descriptor)
            raise OSError(error.errno, error.strerror, str(path)) from error
        return descriptor
    raise UserError(_in_use(path, _read(path)))


def _remove_stale(path: Path) -> bool:
    """Remove the lock of a process of this machine that is gone; False if it may go, or go away, in a moment.

    Raises:
        UserError: its owner lives, or its owner cannot be known.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except PermissionError:
        raise UserError(_in_use(path, _read(path))) from None
    try:
        owner = _read(path)
        if owner is None:
            return False  # its owner has not written it yet
        if owner.host != socket.gethostname() or _is_alive(owner):
            raise UserError(_in_use(path, owner))
        # Only one process at a time may remove the file, and only the file whose owner it has read.
        if not _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) or not _is_same_file(path, descriptor):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def _in_use(path: Path, owner: Owner | None) -> str:
    if owner is None:
        return f"{path.parent} is in use: delete {path} if no process writes there"
    return (
        f"{path.parent} is in use by process {owner.pid} on {owner.host}: wait for it, choose another --output, or "
        f"delete {path} if that process is gone"
    )


def _read(path: Path) -> Owner | None:
    """The owner of a lock; None if the file is gone, cannot be read or names no process."""
    try:
        owner = Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return owner if isinstance(owner.pid, int) and 0 < owner.pid < 2**31 else None


def _this_process() -> Owner:
    return Owner(socket.gethostname(), os.getpid(), _started(os.getpid()))


def _is_alive(owner: Owner) -> bool:
    """Whether the process runs on this machine; another one that got its number later is not it."""
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    started = _started(owner.pid)
    return started is None or owner.started is None or started == owner.started


def _started(pid: int) -> str | None:
    """Boot of the machine and clock ticks from there to the start of the process, from /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The second field, the name in brackets, may hold blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, ticks = fields[0], fields[19]
    return "ended" if state in "ZX" else f"{boot} {ticks}"


def _flock(descriptor: int, operation: int) -> bool:
    """False if another process holds it; a file system without flock lets everyone have it."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    return True


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
