"""What nvcc makes of the CUDA kernels that the cases launch, and the times predicted for them."""

from typing import Any

from benchmarks.audit import assembly, cuda_kernels, gpus, phases, prediction, recorder
from benchmarks.audit.cases import Case
from benchmarks.audit.compilation import CannotCompileError
from benchmarks.audit.cuda_kernels import CudaKernel
from benchmarks.audit.gpus import GPUS, Gpu
from benchmarks.audit.launches import on_gpu
from benchmarks.audit.phases import Shape
from benchmarks.audit.prediction import Launched, Record
from benchmarks.audit.recorder import CudaLaunch
from benchmarks.audit.routes import Routes

# They have on the chip what Triton's kernels read again: the row for its gradient, the logits for the loss. What they
# hand on is small.
_HOLD = ("cross_entropy_row_", "forward_held")


class CudaAudit:
    """Reads each kernel once per generation and shape of its blocks.

    Raises:
        CannotCompileError: there is no nvcc, or it fails.
    """

    def __init__(self) -> None:
        try:
            self.implementations = recorder.implementations()
            self._compiled = cuda_kernels.kernels(cuda_kernels.objects())
        except cuda_kernels.builder().BuildError as error:
            raise CannotCompileError(f"the CUDA kernels cannot be compiled: {error}") from error
        self.kernels: dict[Any, Record] = {}
        self._read: dict[tuple[str, int, Shape], Record] = {}

    def op(self, case: Case) -> Record:
        """The record of an op: its launches on each GPU, and the time predicted for them."""
        return {"gpus": {gpu.name: self._on(gpu, case) for gpu in GPUS}}

    def _on(self, gpu: Gpu, case: Case) -> Record:
        with recorder.recording(gpu) as launches, on_gpu(gpu.multiprocessors, gpu.cache):
            case.run(self.implementations)
        launched = [
            Launched(self._kernel(launch, gpu, case), launch.blocks, launch.threads) for launch in launches
        ]
        holds = any(one.kernel["kernel"] in _HOLD for one in launched)
        return prediction.predicted(gpu, case, launched, 0 if holds else case.again)

    def _kernel(self, launch: CudaLaunch, gpu: Gpu, case: Case) -> Record:
        kernel = self._compiled[launch.symbol, gpu.capability]
        shape = Shape(
            case.dtype.itemsize, case.sizes.get("H", 0), "bias" in case.cached and "V" in case.sizes
        )
        key = (launch.symbol, gpu.capability, launch.threads, launch.shared, shape)
        if key not in self.kernels:
            template = f"<{kernel.template}>" if kernel.template else ""
            self.kernels[key] = {
                "backend": "cuda",
                "kernel": _known_as(kernel),
                "id": f"cuda/{_known_as(kernel)}{template}/{gpu.capability}/{len(self.kernels) + 1}",
                "first_case": case.name,
                "architecture": gpu.capability,
                "warps": launch.threads // 32,
                "cluster": launch.cluster,
                "shared": kernel.shared + launch.shared,
                **_read(kernel, launch, gpu),
                **self._phases(kernel, launch.symbol, shape),
            }
        return self.kernels[key]

    def _phases(self, kernel: CudaKernel, symbol: str, shape: Shape) -> Record:
        key = (symbol, kernel.capability, shape)
        if key not in self._read:
            known = phases.CUDA.get(_known_as(kernel))
            own = known(shape) if known else []
            self._read[key] = phases.record_of(kernel.name, Routes(kernel.instructions), own)
        return self._read[key]


def _known_as(kernel: CudaKernel) -> str:
    """Two files have a kernel of the same name."""
    return f"{kernel.file}/{kernel.name}" if kernel.name in ("forward", "backward", "join") else kernel.name


def _read(kernel: CudaKernel, launch: CudaLaunch, gpu: Gpu) -> Record:
    stores, loads = kernel.spills
    warps = launch.threads // 32
    at_once = gpus.programs_at_once(gpu, kernel.registers, kernel.shared + launch.shared, warps)
    return {
        "registers": kernel.registers,
        "stack_bytes": kernel.stack,
        "spill_stores": stores,
        "spill_loads": loads,
        "programs_at_once": at_once,
        "occupancy": round(gpus.occupancy(at_once, warps), 3),
        "loads": assembly.count_widths(kernel.instructions, "LDG"),
        "stores": assembly.count_widths(kernel.instructions, "STG"),
        "instructions": len(kernel.instructions),
    }
