"""Which implementation serves which op on which device, and why another does not."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from electra_kernels import reference
from electra_kernels._build_info import build_info

BACKENDS = ("reference", "cpp", "cuda", "triton")
DEVICES = ("cpu", "cuda")
# The first back end of this order that has the op serves it.
_PREFERENCE = {"cpu": ("cpp", "reference"), "cuda": ("cuda", "triton", "reference")}

Implementations = Mapping[str, Callable[..., object]]


@dataclass(frozen=True)
class Backends:
    """What `backends` returns.

    Attributes:
        serving: (op, device) → the back end that serves it by default.
        available: back end → the devices that it can run on here.
        unavailable: back end → why it cannot run here.
    """

    serving: dict[tuple[str, str], str]
    available: dict[str, tuple[str, ...]]
    unavailable: dict[str, str]

    def __str__(self) -> str:
        width = max(len(op) for op, _ in self.serving)
        lines = [f"{'op':{width}}  " + "  ".join(f"{device:9}" for device in DEVICES)]
        for op in dict.fromkeys(op for op, _ in self.serving):
            names = (self.serving[op, device] for device in DEVICES)
            lines.append(f"{op:{width}}  " + "  ".join(f"{name:9}" for name in names))
        lines += [f"{name}: not available: {reason}" for name, reason in self.unavailable.items()]
        return "\n".join(lines)


class _Choice(threading.local):
    backend: str | None = None


_choice = _Choice()
_implementations: dict[str, Implementations] = {}
_devices: dict[str, tuple[str, ...]] = {}
_unavailable: dict[str, str] = {}
_routes: dict[tuple[str, str], Callable[..., object]] = {}


def register_backend(name: str, devices: tuple[str, ...], implementations: Implementations) -> None:
    """Add a back end: functions by op name, each with the arguments of the op's schema."""
    unknown = implementations.keys() - reference.IMPLEMENTATIONS.keys()
    if unknown:
        raise ValueError(f"implementations: {sorted(unknown)} are no ops of electra_kernels")
    _implementations[name], _devices[name] = implementations, devices
    _unavailable.pop(name, None)
    _routes.clear()


def backends() -> Backends:
    """Say which back end serves which op on which device, and why the others do not.

    >>> print(backends())  # a table
    """
    serving = {(op, device): _serving(op, device) for op in reference.IMPLEMENTATIONS for device in DEVICES}
    return Backends(serving, dict(_devices), dict(_unavailable))


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Serve every op of this thread by one back end, for tests and benchmarks.

    Args:
        name: "reference", "cpp", "cuda" or "triton".

    Raises:
        ValueError: no such back end.
        RuntimeError: it is not available here; on a call, that it lacks the op or the device.
    """
    if name not in BACKENDS:
        raise ValueError(f"name is {name!r}, should be one of {', '.join(BACKENDS)}")
    if name not in _implementations:
        raise RuntimeError(f"back end {name!r} is not available: {_unavailable[name]}")
    previous, _choice.backend = _choice.backend, name
    try:
        yield
    finally:
        _choice.backend = previous


def current_choice() -> str | None:
    """The back end that `use_backend` has set in this thread."""
    return _choice.backend


def implementation(op: str, device: str) -> Callable[..., object]:
    """The function that serves ``op`` on ``device`` now."""
    if _choice.backend is not None:
        return _chosen(_choice.backend, op, device)
    route = _routes.get((op, device))
    if route is None:
        route = _routes[op, device] = _implementations[_serving(op, device)][op]
    return route


def _serving(op: str, device: str) -> str:
    return next(
        name
        for name in _PREFERENCE[device]
        if op in _implementations.get(name, ()) and device in _devices[name]
    )


def _chosen(name: str, op: str, device: str) -> Callable[..., object]:
    if device not in _devices[name]:
        raise RuntimeError(f"back end {name!r} runs on {', '.join(_devices[name])}, not on {device}")
    if op not in _implementations[name]:
        raise RuntimeError(f"back end {name!r} does not implement {op}")
    return _implementations[name][op]


def _explain_missing_kernels() -> None:
    build = build_info()
    reason = "this version has no kernels of this kind"
    _unavailable["cpp"] = reason if build["built"] else f"electra_kernels._C is not built: {build['reason']}"
    _unavailable["cuda"] = _unavailable["triton"] = reason


register_backend("reference", DEVICES, reference.IMPLEMENTATIONS)
_explain_missing_kernels()
