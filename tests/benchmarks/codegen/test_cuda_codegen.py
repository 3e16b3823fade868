"""The CUDA kernels, compiled for each generation of GPUs without one: no spills, and 16-byte loads and stores of
contiguous data."""

import shutil

import pytest

pytest.importorskip("triton", reason="Triton's package has the disassembler")

from benchmarks.codegen import cuda_kernels, report
from benchmarks.codegen.cuda_kernels import COPIES, LOADS, STREAMS
from csrc import build

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc on the PATH")


@pytest.fixture(scope="module")
def kernels():
    return cuda_kernels.kernels(cuda_kernels.objects())


def test_no_kernel_spills_or_has_narrow_accesses(kernels):
    expected = {
        (file, kernel, generation)
        for file, streams in STREAMS.items()
        for kernel in streams
        for generation in build.GENERATIONS
    }
    assert {(kernel.file, kernel.name, kernel.capability) for kernel in kernels} == expected
    assert report.faults(cuda_kernels.records(kernels)) == []


def test_a_kernel_that_is_not_listed_is_a_fault(kernels, monkeypatch):
    monkeypatch.delitem(STREAMS["bce"], "join")
    faults = report.faults(cuda_kernels.records(kernels))
    assert faults
    assert all("bce.join" in fault and "not listed" in fault for fault in faults)


def test_kernels_that_copy_ahead_begin_copies_before_they_wait_for_one(kernels):
    ahead = [kernel for kernel in kernels if COPIES in STREAMS[kernel.file][kernel.name]]
    assert len(ahead) == 4 * 3 * len(build.GENERATIONS)  # kernels, element types
    for kernel in ahead:
        copy, wait = (
            next(i for i, name in enumerate(kernel.instructions) if name.startswith(prefix))
            for prefix in (COPIES, "DEPBAR.LE")
        )
        assert copy < wait, f"{kernel.name} on sm_{kernel.capability}"


@pytest.fixture
def compiled(tmp_path):
    """Compiles the source of one kernel for sm_90."""

    def compile_(source):
        path = tmp_path / "source.cu"
        path.write_text(f"namespace {{ {source} }}")
        target = tmp_path / "source.o"
        build.compile_and_link(["-arch=sm_90", "-c", str(path), "-o", str(target)], build.cuda_compiler())
        (kernel,) = cuda_kernels.kernels([target])
        return kernel

    return compile_


def test_a_spill_and_narrow_loads_are_faults(compiled, monkeypatch):
    narrow = compiled(
        """
        __global__ void narrow(const float* x, float* out, int k) {
          float numbers[64] = {};
          for (int i = 0; i < 999; ++i) numbers[i * k % 64] += x[i * 3];
          out[threadIdx.x] = numbers[threadIdx.x];
        }
        } void run(const float* x, float* out) { narrow<<<1, 32>>>(x, out, 1);
        """
    )
    monkeypatch.setitem(STREAMS, "source", {"narrow": (LOADS,)})
    spills, widths = report.faults(cuda_kernels.records([narrow]))
    assert spills.startswith("cuda source.narrow on sm_90 spills: ")
    assert widths == "cuda source.narrow on sm_90 has no LDG of 16 bytes"
