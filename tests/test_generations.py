"""What the compiler makes of the CUDA kernels for each generation of GPUs, none of which needs to be here: no spills,
and 16 bytes a thread wherever a kernel streams its data."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton's package has the disassembler")

import triton

from benchmarks.audit import assembly

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc on the PATH")

ROOT = Path(__file__).parent.parent
# Names without linkage carry that of their file between two hashes; the kernel's comes behind its length.
_SYMBOL = re.compile(r"__N__[0-9a-f]{8}_\d+_(\w+)_cu_[0-9a-f]{8}(\d+)(\w+)")
LOADS, STORES = "LDG", "STG"
# Which of its loads and stores a kernel needs to have in pieces of 16 bytes. The first ones move numbers of any
# layout as well, by other instructions.
STREAMS = {
    "bce": {"forward": (LOADS, STORES), "backward": (LOADS, STORES), "join": ()},
    "rtd_head": {
        "forward_held": (LOADS,),
        "visit_any": (LOADS,),
        "backward": (LOADS, STORES),
        "join": (),
    },
    "sampling": {
        "sample_row": (LOADS,),
        "gradient_row": (LOADS, STORES),
        "check_row": (),
        "replace_row": (),  # of 8-byte ids in rows of any stride
    },
    "mlm_head": {
        "cross_entropy_row": (LOADS,),
        "cross_entropy_row_": (LOADS, STORES),
        "scale_row": (LOADS, STORES),
        "reduce_all_losses": (),
    },
    "masking": {"mask_row": ()},  # ids again
}


@pytest.fixture(scope="module")
def builder():
    """setup.py as a module."""
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def disassembled(path):
    """Every kernel of an object file: (file, kernel, generation) and its instructions."""
    command = [triton.knobs.nvidia.cuobjdump.path, "-sass", path]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for code in listing.split("code for sm_")[1:]:
        generation = int(re.match(r"\d+", code)[0])
        for function in code.split("Function : ")[1:]:
            symbol, _, sass = function.partition("\n")
            file, length, rest = re.search(_SYMBOL, symbol).groups()
            yield (file, rest[: int(length)], generation), assembly.instructions(sass)


def faults(kernels, streams):
    """Kernels that spill, or move in small pieces what they stream."""
    found = []
    for (file, kernel, generation), instructions in kernels:
        where = f"{file}.cu, {kernel}, sm_{generation}"
        if any(one.name.startswith(("STL", "LDL")) for one in instructions):
            found.append(f"{where} spills")
        for access in streams[file][kernel]:
            if 16 not in assembly.count_widths(instructions, access):
                found.append(f"{where} has no {access} of 16 bytes")
    return found


def test_no_kernel_spills_or_moves_its_data_in_small_pieces(builder):
    commands = [command for command in builder.cuda_commands() if command[1][-1].endswith(".cu")]
    paths = builder.build_objects(builder.OBJECTS, commands, builder.cuda_compiler())
    kernels = [kernel for path in paths for kernel in disassembled(path)]
    expected = {
        (file, kernel, generation)
        for file, streams in STREAMS.items()
        for kernel in streams
        for generation in builder.GENERATIONS
    }
    assert {key for key, _ in kernels} == expected
    assert faults(kernels, STREAMS) == []


def test_a_spill_and_narrow_loads_are_seen(builder, tmp_path):
    source = tmp_path / "narrow.cu"
    source.write_text(
        """
        namespace {
        __global__ void narrow(const float* x, float* out, int k) {
          float numbers[64] = {};
          for (int i = 0; i < 999; ++i) numbers[i * k % 64] += x[i * 3];
          out[threadIdx.x] = numbers[threadIdx.x];
        }
        }
        void run(const float* x, float* out) { narrow<<<1, 32>>>(x, out, 1); }
        """
    )
    target = tmp_path / "narrow.o"
    builder.compile_and_link(["-arch=sm_90", "-c", str(source), "-o", str(target)], builder.cuda_compiler())
    assert faults(disassembled(target), {"narrow": {"narrow": (LOADS,)}}) == [
        "narrow.cu, narrow, sm_90 spills",
        "narrow.cu, narrow, sm_90 has no LDG of 16 bytes",
    ]
