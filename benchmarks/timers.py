"""Timers: the host's clock for the CPU, the events of a stream for a GPU. Also CUDA graphs and peak memory of a run."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch.utils.benchmark import Timer as TorchTimer

from benchmarks import memory

Run = Callable[[], object]

# Seconds. In a shorter block, most of the time is the clock and the scheduler.
_SHORTEST_BLOCK = 5e-3


class Timer(Protocol):
    """Times runs on one kind of device."""

    device: torch.device

    def block(self, seconds: float, back_to_back: bool) -> int:
        """How many runs of ``seconds`` each are timed together."""

    def seconds(self, run: Run, runs: int, back_to_back: bool) -> float:
        """Seconds per run, over ``runs`` runs."""

    def floors(self, bytes_read: int, bytes_written: int) -> tuple[Run, Run]:
        """A run that moves ``bytes_read`` bytes, and a run that moves ``bytes_written`` bytes as well."""


class HostTimer:
    """The mean of consecutive runs, by the clock of the host."""

    device = torch.device("cpu")

    def block(self, seconds: float, back_to_back: bool) -> int:
        return max(1, round(_SHORTEST_BLOCK / seconds))

    def seconds(self, run: Run, runs: int, back_to_back: bool) -> float:
        return (
            TorchTimer("run()", globals={"run": run}, num_threads=torch.get_num_threads()).timeit(runs).mean
        )

    def floors(self, bytes_read: int, bytes_written: int) -> tuple[Run, Run]:
        """A sum over ``bytes_read``; the same sum, and zeroing ``bytes_written``."""
        source, target = (torch.ones(max(1, size // 4)) for size in (bytes_read, bytes_written))

        def traffic() -> None:
            source.sum()
            target.zero_()

        return source.sum, traffic


class Event(Protocol):
    """The part of torch.cuda.Event that is used here; times are in milliseconds."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Any) -> float: ...


class HostEvent:
    """An event of the CPU, which executes at once; it lets a `StreamTimer` run without a GPU."""

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        """Return at once: all work before the event is done."""

    def elapsed_time(self, end_event: "HostEvent") -> float:
        return (end_event.time - self.time) * 1e3


def event(device: torch.device) -> Event:
    return torch.cuda.Event(enable_timing=True) if device.type == "cuda" else HostEvent()


class StreamTimer:
    """The time between two events of the device's stream.

    A single run is timed with a cold level 2 cache: before it, a buffer larger than the cache is written, as often as
    the host needs to queue the whole run. The result is therefore the time of the device alone. Runs that are timed
    back to back behave like a training loop: time in which the device waits for the host counts, and the cache keeps
    what the previous run left.
    """

    _MOST_WRITES = 100
    _MOST_RUNS = 10
    _BACK_TO_BACK_SECONDS, _LEAST_BACK_TO_BACK = 0.05, 3

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffer = torch.empty(4 * _cache_bytes(device), dtype=torch.uint8, device=device)
        self._write_seconds = max(1e-6, self._between(self._buffer.zero_, 10))
        self._queueing = WeakKeyDictionary[Run, float]()

    def block(self, seconds: float, back_to_back: bool) -> int:
        if back_to_back:
            return max(self._LEAST_BACK_TO_BACK, round(self._BACK_TO_BACK_SECONDS / seconds))
        return min(max(1, round(_SHORTEST_BLOCK / seconds)), self._MOST_RUNS)

    def seconds(self, run: Run, runs: int, back_to_back: bool) -> float:
        """Seconds per run: the mean of runs back to back, or the median of single runs."""
        if back_to_back:
            return self._between(run, runs)
        pairs = [(event(self.device), event(self.device)) for _ in range(runs)]
        for start, end in pairs:
            for _ in range(self._writes_ahead_of(run)):
                self._buffer.zero_()
            start.record()
            began = time.perf_counter()
            run()
            self._queueing[run] = time.perf_counter() - began
            end.record()
        pairs[-1][1].synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in pairs) / 1e3

    def floors(self, bytes_read: int, bytes_written: int) -> tuple[Run, Run]:
        """Copies, half of whose bytes are read and half written."""
        return self.copy(bytes_read), self.copy(bytes_read + bytes_written)

    def copy(self, size: int) -> Run:
        """A run that moves ``size`` bytes: it reads one half and writes the other."""
        source, target = (
            torch.ones(max(1, size // 2), dtype=torch.uint8, device=self.device) for _ in range(2)
        )
        return lambda: target.copy_(source)

    def copied_per_second(self, size: int) -> float:
        """Bytes per second that a copy of this size reads and writes."""
        copy = self.copy(size)
        copy()
        return size / self.seconds(copy, self._MOST_RUNS, back_to_back=False)

    def _between(self, run: Run, runs: int) -> float:
        """Seconds per run. One more run comes before, so that the device is busy when the first is queued."""
        start, end = event(self.device), event(self.device)
        run()
        start.record()
        for _ in range(runs):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / runs

    def _writes_ahead_of(self, run: Run) -> int:
        """How many writes of the buffer take longer than the host last needed to queue the run."""
        queueing = self._queueing.get(run, 0.0)
        return min(1 + math.ceil(1.5 * queueing / self._write_seconds), self._MOST_WRITES)


def _cache_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return 1 << 20


class Graph:
    """A run as a CUDA graph: the first call captures it, every call replays it. On a CPU it is the run itself.

    Attributes:
        peak_extra_bytes: peak memory of the capture, since a replay allocates nothing; None before it.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run, self._device = run, device
        self._replay: Run | None = None if device.type == "cuda" else run
        self.peak_extra_bytes: int | None = None

    def __call__(self) -> object:
        if self._replay is None:
            self._replay = self._capture()
        return self._replay()

    def release(self) -> None:
        """Free the memory of the graph; the next call captures it again."""
        if self._device.type == "cuda":
            self._replay = None
            torch.cuda.empty_cache()

    def _capture(self) -> Run:
        # Set-up that happens once (libraries, compilation, the autograd engine) must not fall into the capture.
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()

        def capture() -> None:
            with torch.cuda.graph(graph):
                self._run()

        self.peak_extra_bytes = memory.peak_extra_bytes(capture, self._device)
        return graph.replay


def peak_extra_bytes(run: Run, device: torch.device) -> int | None:
    """Peak memory of one run beyond what was allocated before it; None if the system cannot measure it."""
    known = run.peak_extra_bytes if isinstance(run, Graph) else None
    return memory.peak_extra_bytes(run, device) if known is None else known
