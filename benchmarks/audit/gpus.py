"""GPUs that are not here: what fits on a multiprocessor at once, and how long a kernel needs at least.

Limits and throughputs per compute capability are those that the CUDA C++ Programming Guide tabulates; multiprocessors,
clock and bandwidth of A100 80GB SXM, H100 SXM5 and HGX B200 are as published specification pages repeat them. They were
not compared with NVIDIA's own documents. Clock of FP32 work: published FP32 rate / (256 x multiprocessors).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """
    Attributes:
        capability: as a compiler's target.
        bandwidth: bytes a second to its memory.
        cache: bytes of its level 2, in two halves.
        shared_memory: bytes of a multiprocessor for all its programs.
        double_lanes: threads of a multiprocessor that start a float64 operation in a clock.
    """

    name: str
    capability: int
    multiprocessors: int
    clock: float
    bandwidth: float
    cache: int
    shared_memory: int
    double_lanes: int

    @property
    def shared_memory_of_a_program(self) -> int:
        return self.shared_memory - _SYSTEM_SHARED


GPUS = (
    Gpu("A100", 80, 108, 1.41e9, 2.039e12, 40 << 20, 164 << 10, 32),
    Gpu("H100", 90, 132, 1.98e9, 3.35e12, 50 << 20, 228 << 10, 64),
    Gpu("B200", 100, 148, 1.98e9, 8.0e12, 126 << 20, 228 << 10, 64),
)
# The same for all three of them.
_WARPS, _PROGRAMS, _REGISTERS = 64, 32, 65_536  # at once, of a multiprocessor
_REGISTERS_AT_A_TIME, _SHARED_AT_A_TIME = (
    256,
    128,
)  # a warp's registers and a program's bytes come in such pieces
_SYSTEM_SHARED = 1024  # bytes that CUDA takes for each program
_LANES, _SPECIAL_LANES = (
    128,
    16,
)  # instructions of a thread, and those of its special function unit, per clock


def programs_at_once(gpu: Gpu, registers: int, shared: int, num_warps: int) -> int:
    """Of one multiprocessor."""
    per_warp = _round_up(registers * 32, _REGISTERS_AT_A_TIME)
    # Each quarter of a multiprocessor has its own registers, and the warps are dealt out to them.
    by_registers = 4 * (_REGISTERS // 4 // per_warp) // num_warps
    by_shared = gpu.shared_memory // _round_up(shared + _SYSTEM_SHARED, _SHARED_AT_A_TIME)
    return min(_PROGRAMS, _WARPS // num_warps, by_registers, by_shared)


def occupancy(programs: int, num_warps: int) -> float:
    return programs * num_warps / _WARPS


def seconds(gpu: Gpu, size: float, instructions: Mapping[str, float]) -> dict[str, float]:
    """At least, by bound: memory for ``size`` bytes; and each kind of the instructions of all threads."""
    pipes = {"issue": _LANES, "special": _SPECIAL_LANES, "double": gpu.double_lanes}
    rate = gpu.multiprocessors * gpu.clock
    return {"memory": size / gpu.bandwidth} | {
        pipe: instructions[pipe] / (lanes * rate) for pipe, lanes in pipes.items()
    }


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
