"""What the compiler makes of the CUDA kernels for each generation of GPUs, none of which needs to be here: no spills,
and 16 bytes a thread wherever a kernel streams its data."""

import fcntl
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


@pytest.fixture(scope="module")
def kernels(builder):
    """(file, kernel, generation) → the instructions of each of its instances."""
    commands = [command for command in builder.cuda_commands() if command[1][-1].endswith(".cu")]
    found: dict[tuple[str, str, int], list[list[assembly.Instruction]]] = {}
    builder.OBJECTS.mkdir(parents=True, exist_ok=True)
    with (builder.OBJECTS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests may run in several processes
        paths = builder.build_objects(builder.OBJECTS, commands, builder.cuda_compiler())
    for path in paths:
        for key, instructions in disassembled(path):
            found.setdefault(key, []).append(instructions)
    return found


def disassembled(path):
    """Every kernel of an object file: (file, kernel, generation) and its instructions."""
    command = [triton.knobs.nvidia.cuobjdump.path, "-sass", path]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for code in listing.split("code for sm_")[1:]:
        generation = int(re.match(r"\d+", code)[0])
        for function in code.split("Function : ")[1:]:
            symbol, _, sass = function.partition("\n")
            # Names without linkage carry that of their file and a hash; the kernel's comes behind its length.
            file, length, rest = re.search(r"_\d+_(\w+)_cu_[0-9a-f]{8}(\d+)(\w+)", symbol).groups()
            yield (file, rest[: int(length)], generation), assembly.instructions(sass)


def spills(instructions):
    return [one.name for one in instructions if one.name.startswith(("STL", "LDL"))]


def test_every_kernel_is_known_here(builder, kernels):
    expected = {
        (file, kernel, generation)
        for file, streams in STREAMS.items()
        for kernel in streams
        for generation in builder.GENERATIONS
    }
    assert set(kernels) == expected
    assert {path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu")} == set(STREAMS)


def test_no_kernel_spills(kernels):
    assert [key for key, instances in kernels.items() if any(map(spills, instances))] == []


@pytest.mark.parametrize("access", [LOADS, STORES])
def test_what_is_streamed_moves_in_16_bytes(kernels, access):
    narrow = []
    for (file, kernel, generation), instances in kernels.items():
        if access in STREAMS[file][kernel]:
            widths = [assembly.count_widths(instructions, access) for instructions in instances]
            narrow += [(file, kernel, generation) for counted in widths if 16 not in counted]
    assert narrow == []


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
    ((key, instructions),) = disassembled(target)
    assert key == ("narrow", "narrow", 90)
    assert spills(instructions)
    assert 16 not in assembly.count_widths(instructions, LOADS)
