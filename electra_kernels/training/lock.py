"""A lock file that allows one writer per output folder and names the process that holds it."""

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
        host: name of its machine.
        pid: process id on that machine.
        started: boot of the machine and start time since then, which distinguish it from a later process with the same
            pid; None if the system does not provide them.
    """

    host: str
    pid: int
    started: str | None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder within the block. A missing folder is created.

    The lock file is created exclusively, which is atomic on network file systems too. A crash leaves it behind; the
    next process removes it if its owner ran on this machine and is gone. Where the file system supports ``flock``, the
    owner also holds that. So an owner in another container, whose pid means nothing here, counts as alive.

    Raises:
        UserError: another process holds the lock, or may hold it on another machine.
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
    """Create the lock file and return its open descriptor."""
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
    raise UserError(_in_use_message(path, _read_owner(path)))


def _remove_stale(path: Path) -> bool:
    """Remove the lock if its owner was a process of this machine and is gone.

    Returns:
        Whether the file is gone. If not, the caller should try again soon: another process is changing the file.

    Raises:
        UserError: the owner is alive or unknown.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except PermissionError:
        raise UserError(_in_use_message(path, _read_owner(path))) from None
    try:
        owner = _read_owner(path)
        if owner is None:
            return False  # the owner has not written its name yet
        if owner.host != socket.gethostname() or _is_alive(owner):
            raise UserError(_in_use_message(path, owner))
        # Only one process at a time may remove the file, and only the file from which it has read the owner.
        if not _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) or not _is_same_file(path, descriptor):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def _in_use_message(path: Path, owner: Owner | None) -> str:
    if owner is None:
        return f"{path.parent} is in use: delete {path} if no process writes there"
    return (
        f"{path.parent} is in use by process {owner.pid} on {owner.host}: wait for it, choose another --output, or "
        f"delete {path} if that process is gone"
    )


def _read_owner(path: Path) -> Owner | None:
    """The owner of a lock; None if the file is gone, is unreadable or names no process."""
    try:
        owner = Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return owner if isinstance(owner.pid, int) and 0 < owner.pid < 2**31 else None


def _this_process() -> Owner:
    return Owner(socket.gethostname(), os.getpid(), _start_of(os.getpid()))


def _is_alive(owner: Owner) -> bool:
    """Whether the owner runs on this machine. A later process with the same pid is not the owner."""
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it belongs to another user
    started = _start_of(owner.pid)
    return started is None or owner.started is None or started == owner.started


def _start_of(pid: int) -> str | None:
    """Boot of the machine, and clock ticks from then to the start of the process, read from /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The second field is the name in brackets, which may itself contain blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, ticks = fields[0], fields[19]
    return "ended" if state in "ZX" else f"{boot} {ticks}"


def _flock(descriptor: int, operation: int) -> bool:
    """Lock the file; False if another process holds the lock. Without flock in the file system, True."""
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
