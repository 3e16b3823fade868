"""The registry of back ends: it finds the implementation that serves an op on a device, or says why none does."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from electra_kernels import triton
from electra_kernels.backends import compiled
from electra_kernels.backends.implementations import ROWS, Implementations, from_package
from electra_kernels.backends.table import BACKENDS, DEVICES, OPS, ORDER


@dataclass(frozen=True)
class Backends:
    """The result of `backends`. "cuda" stands for the current GPU.

    Attributes:
        serving: (op, device) → the back end that serves it by default.
        available: back end → the devices that it can run on here.
        unavailable: back end → why it cannot run here, or not on this GPU.
        levels: back end → the instruction sets that it can run here; it runs the first unless
            `use_backend` asks for another.
    """

    serving: dict[tuple[str, str], str]
    available: dict[str, tuple[str, ...]]
    unavailable: dict[str, str]
    levels: dict[str, tuple[str, ...]]

    def __str__(self) -> str:
        width = max(len(op) for op, _ in self.serving)
        lines = [f"{'op':{width}}  " + "  ".join(f"{device:9}" for device in DEVICES)]
        for op in dict.fromkeys(op for op, _ in self.serving):
            names = (self.serving[op, device] for device in DEVICES)
            lines.append(f"{op:{width}}  " + "  ".join(f"{name:9}" for name in names))
        lines += [f"{name}: instruction set {level}" for name, (level, *_) in self.levels.items()]
        lines += [f"{name}: not available: {reason}" for name, reason in self.unavailable.items()]
        return "\n".join(lines)


class _Choice(threading.local):
    backend: str | None = None  # a key of _implementations: the name of a back end, or name:level


_choice = _Choice()
_implementations: dict[str, Implementations] = {}
_devices: dict[str, tuple[str, ...]] = {}
_unavailable: dict[str, str] = {}
_routes: dict[tuple[str, str, int | None], Callable[..., object]] = {}
_probed: dict[tuple[str, int], str | None] = {}  # back end and GPU -> why it cannot run there


def register_backend(
    name: str,
    devices: tuple[str, ...],
    implementations: Implementations,
    levels: Mapping[str, Implementations] | None = None,
) -> None:
    """Add a back end.

    Args:
        name: one of BACKENDS.
        devices: device types that it can run on.
        implementations: functions by op name, each with the arguments of the op's schema; and under ROWS, if the back
            end has them, a function from a dtype to the `RowKernels`.
        levels: the same for each instruction set that `use_backend` can ask for, best first.

    Raises:
        ValueError: ``implementations`` names an op that does not exist.
    """
    unknown = implementations.keys() - OPS.keys() - {ROWS}
    if unknown:
        raise ValueError(f"implementations: {sorted(unknown)} are no ops of electra_kernels")
    _implementations[name], _devices[name] = implementations, devices
    for level, functions in (levels or {}).items():
        _implementations[f"{name}:{level}"] = functions
    _unavailable.pop(name, None)
    _routes.clear()
    _probed.clear()


def backends() -> Backends:
    """Say which back end serves which op on which device, and why the others do not.

    On a machine with a GPU this runs a small kernel of each back end on the current GPU.

    >>> print(backends())  # a table
    """
    gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
    serving = {(op, device): _serving(op, device, gpu) for op in OPS for device in DEVICES}
    levels = {name: _levels(name) for name in _devices if _levels(name)}
    available, unavailable = dict(_devices), dict(_unavailable)
    for name, devices in _devices.items():
        reason = _failure_on_gpu(name, gpu) if "cuda" in devices else None
        if reason is not None:
            unavailable[name] = f"on cuda:{gpu}: {reason}"
            available[name] = tuple(device for device in devices if device != "cuda")
    available = {name: devices for name, devices in available.items() if devices}
    return Backends(serving, available, unavailable, levels)


def _failure_on_gpu(name: str, gpu: int | None) -> str | None:
    """Why a back end cannot run on a GPU, such as an old driver, or None. Its first kernel there decides.

    A GPU is probed at its first use and not when the back end is registered, because a process that has started
    CUDA can no longer fork. Only that GPU is probed, because CUDA takes memory on each GPU that it is started on.
    """
    if gpu is None or name == "reference":
        return None
    if (name, gpu) not in _probed:
        _probed[name, gpu] = _probe(_implementations[name], torch.device("cuda", gpu))
    return _probed[name, gpu]


def _probe(implementations: Implementations, device: torch.device) -> str | None:
    ids = torch.zeros(1, 1, dtype=torch.int64, device=device)
    try:
        implementations["replace_tokens"](ids, ids, ids)
    except torch.OutOfMemoryError:
        raise  # a full GPU says nothing about the back end
    except Exception as error:  # whatever the error is, another back end serves, and `backends` says why
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def _levels(name: str) -> tuple[str, ...]:
    """The instruction sets of a back end, best first."""
    keys = (key.partition(":") for key in _implementations)
    return tuple(level for backend, _, level in keys if backend == name and level)


@contextmanager
def use_backend(name: str, *, isa: str | None = None) -> Iterator[None]:
    """Serve every op of this thread by one back end, for tests and benchmarks.

    Args:
        name: "reference", "cpp", "cuda" or "triton"; or what `current_choice` has returned.
        isa: an instruction set of ``backends().levels[name]``, by default the best.

    Raises:
        ValueError: no such back end, or no such instruction set here.
        RuntimeError: it is not available here; on a call, that it lacks the op or the device.
    """
    backend, _, level = name.partition(":")
    if backend not in BACKENDS:
        raise ValueError(f"name is {name!r}, should be one of {', '.join(BACKENDS)}")
    if backend not in _implementations:
        raise RuntimeError(f"back end {backend!r} is not available: {_unavailable[backend]}")
    level = isa or level
    if level and level not in _levels(backend):
        expected = ", ".join(map(repr, _levels(backend))) or "left out"
        raise ValueError(f"isa is {level!r}, should be {expected} for back end {backend!r} here")
    previous, _choice.backend = _choice.backend, f"{backend}:{level}" if level else backend
    try:
        yield
    finally:
        _choice.backend = previous


def current_choice() -> str | None:
    """The name that `use_backend` has set in this thread, as name or name:level; `use_backend` accepts it again."""
    return _choice.backend


def implementation(op: str, device: str, gpu: int | None = None) -> Callable[..., object]:
    """The function that serves ``op`` on ``device`` now; ``gpu`` is the index of a CUDA device."""
    if _choice.backend is not None:
        return _chosen(_choice.backend, op, device)
    route = _routes.get((op, device, gpu))
    if route is None:
        route = _routes[op, device, gpu] = _implementations[_serving(op, device, gpu)][op]
    return route


def _serving(op: str, device: str, gpu: int | None) -> str:
    if device == "cpu":
        gpu = None
    return next(
        name
        for name in ORDER[device]
        if op in _implementations.get(name, ())
        and device in _devices[name]
        and _failure_on_gpu(name, gpu) is None
    )


def _chosen(name: str, op: str, device: str) -> Callable[..., object]:
    devices = _devices[name.partition(":")[0]]
    if device not in devices:
        raise RuntimeError(f"back end {name!r} runs on {', '.join(devices)}, not on {device}")
    if op not in _implementations[name]:
        raise RuntimeError(f"back end {name!r} does not implement {op}")
    return _implementations[name][op]


def _register_all() -> None:
    register_backend("reference", DEVICES, from_package("reference"))
    try:
        levels = compiled.implementations()
        register_backend("cpp", ("cpu",), next(iter(levels.values())), levels)
    except compiled.NotAvailableError as reason:
        _unavailable["cpp"] = str(reason)
    try:
        register_backend("cuda", ("cuda",), compiled.cuda_implementations())
    except compiled.NotAvailableError as reason:
        _unavailable["cuda"] = str(reason)
    try:
        register_backend("triton", triton.devices(), from_package("triton"))
    except triton.NotAvailableError as reason:
        _unavailable["triton"] = str(reason)
    except ImportError as error:
        _unavailable["triton"] = f"triton cannot be imported: {error}"


_register_all()
