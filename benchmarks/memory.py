"""Peak extra memory of one run: the most that it holds beyond what was allocated before, results included."""

import ctypes
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
# Options of mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# In a long-running process, glibc raises its thresholds up to these values.
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}
# Larger blocks go back to the system as soon as they are freed, and count as resident as soon as they are used.
_EAGER = {_TRIM_THRESHOLD: 128 << 10, _MMAP_THRESHOLD: 64 << 10}


def peak_extra_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Peak extra bytes of one warm run; None if the system cannot measure it. On a CPU 0.3 MB are noise."""
    if device.type == "cuda":
        return _cuda_peak(run)
    return _resident_peak(run) if can_measure() else None


@cache
def can_measure() -> bool:
    """Whether Linux can reset the peak of the resident memory here, and the allocator is glibc's."""
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _cuda_peak(run: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def _resident_peak(run: Callable[[], object]) -> int:
    with _eager_allocator() as library:
        library.malloc_trim(0)
        _CLEAR.write_text(_RESET_PEAK)
        before = _resident("VmRSS")
        result = run()
        peak = _resident("VmHWM")
        del result
    return max(0, peak - before)


@contextmanager
def _eager_allocator() -> Iterator[ctypes.CDLL]:
    library = ctypes.CDLL(None)
    _set_options(library, _EAGER)
    try:
        yield library
    finally:
        # Timings should see the allocator of a long-running process.
        _set_options(library, _USUAL)


def _set_options(library: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        if library.mallopt(option, value) != 1:
            raise RuntimeError(f"mallopt({option}, {value}) was refused")


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10
