"""What the compiler makes of the CUDA kernels for each generation of GPUs, none of which needs to be here: no spills,
and 16 bytes a thread wherever a kernel streams its data; and what their host functions launch there."""

import shutil

import pytest
import torch

pytest.importorskip("triton", reason="Triton's package has the disassembler")

from benchmarks.audit import assembly, cuda_kernels, phases, recorder
from benchmarks.audit.cuda_kernels import builder
from benchmarks.audit.gpus import GPUS
from benchmarks.audit.routes import Routes, Work

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc on the PATH")

A100, H100, _ = GPUS
LOADS, STORES = "LDG", "STG"
# Which of its loads and stores a kernel needs to have in pieces of 16 bytes. The first ones move numbers of any
# layout as well, by other instructions.
STREAMS = {
    "bce": {"forward": (LOADS, STORES), "backward": (LOADS, STORES), "join": ()},
    "rtd_head": {
        "forward_held": (LOADS,),
        "scan_any": (LOADS,),
        "backward": (LOADS, STORES),
        "join": (),
    },
    "sampling": {
        "sample_row": (LOADS,),
    },
    "replacing": {"replace_row": ()},  # of 8-byte ids in rows of any stride
    "mlm_head": {
        "cross_entropy_row": (LOADS,),
        "cross_entropy_row_": (LOADS, STORES),
        "gradient_row": (LOADS, STORES),
        "scale_row": (LOADS, STORES),
        "reduce_all_losses": (),
    },
    "masking": {"mask_row": ()},  # ids again
}


@pytest.fixture(scope="module")
def kernels():
    return cuda_kernels.kernels(cuda_kernels.objects())


def faults(kernels, streams):
    """Kernels that spill, or move in small pieces what they stream."""
    found = []
    for kernel in kernels:
        where = f"{kernel.file}.cu, {kernel.name}, sm_{kernel.capability}"
        if any(kernel.spills):
            found.append(f"{where} spills")
        for access in streams[kernel.file][kernel.name]:
            if 16 not in assembly.count_widths(kernel.instructions, access):
                found.append(f"{where} has no {access} of 16 bytes")
    return found


def test_no_kernel_spills_or_moves_its_data_in_small_pieces(kernels):
    expected = {
        (file, kernel, generation)
        for file, streams in STREAMS.items()
        for kernel in streams
        for generation in builder().GENERATIONS
    }
    assert {(kernel.file, kernel.name, kernel.capability) for kernel in kernels.values()} == expected
    assert faults(kernels.values(), STREAMS) == []


@pytest.fixture
def compiled(tmp_path):
    """source of a kernel → it, as compiled for sm_90"""

    def compile_(source):
        path = tmp_path / "source.cu"
        path.write_text(f"namespace {{ {source} }}")
        target = tmp_path / "source.o"
        builder().compile_and_link(
            ["-arch=sm_90", "-c", str(path), "-o", str(target)], builder().cuda_compiler()
        )
        (kernel,) = cuda_kernels.kernels([target]).values()
        return kernel

    return compile_


def test_a_spill_and_narrow_loads_are_seen(compiled):
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
    assert faults([narrow], {"source": {"narrow": (LOADS,)}}) == [
        "source.cu, narrow, sm_90 spills",
        "source.cu, narrow, sm_90 has no LDG of 16 bytes",
    ]


def test_the_cost_of_a_turn_is_that_of_its_arithmetic_however_the_loop_is_unrolled(compiled):
    """By hand: a turn loads four numbers at once, multiplies each eight times and stores them. Its rest, an index, an
    address and a comparison, is in the loop of four turns once or four times."""
    source = """
        __global__ void power(const float4* x, float4* out, int n) {
        #pragma unroll %d
          for (int i = threadIdx.x; i < n; i += 256) {
            float4 a = x[i], b = a;
            for (int k = 0; k < 8; ++k) { b.x *= a.x; b.y *= a.y; b.z *= a.z; b.w *= a.w; }
            out[i] = b;
          }
        }
        } void run(const float4* x, float4* out) { power<<<1, 256>>>(x, out, 9);
        """
    work = Work({"load": 16, "store": 16, "FMUL": 32})
    for turns in (1, 4):
        routes = Routes(compiled(source % turns).instructions)
        turn = routes.turn(work)
        assert 32 + 2 <= turn.issue <= 32 + 2 + 10
        assert turn[3:] == (16, 16, 32)
        # What a loop of four turns leaves over is a loop too.
        assert len(routes.loops) == (1 if turns == 1 else 2)


@pytest.mark.parametrize(
    "op, rows, vocab_size, gpu, expected",
    [
        # A block a row, which has a tile of 1,024 logits for each of its 8 warps at a time.
        ("sample_tokens", 2560, 30_522, A100, [("sample_row", 2560, 256, 3 * 30 * 4, 1)]),
        # Fewer rows than two for each of 132 multiprocessors: one has 30 tiles, so four blocks; then a warp draws.
        (
            "sample_tokens",
            64,
            30_522,
            H100,
            [("sample_row", 4 * 64, 256, 0, 1), ("sample_row", 64, 32, 0, 1)],
        ),
        # 126 tiles of 2 KB with their sums: too much for a block; a quarter of them is less than a third of 227 KB.
        (
            "cross_entropy_sample_",
            1024,
            128_000,
            H100,
            [("cross_entropy_row_", 4 * 1024, 256, 32 * 2048 + 3 * 126 * 4, 4)],
        ),
        # There are no clusters.
        (
            "cross_entropy_sample_",
            1024,
            128_000,
            A100,
            [("cross_entropy_row", 1024, 256, 3 * 126 * 4, 1), ("gradient_row", 16 * 1024, 256, 0, 1)],
        ),
    ],
)
def test_launches_are_those_of_a_gpu_that_is_not_here(kernels, op, rows, vocab_size, gpu, expected):
    ops = recorder.implementations()
    logits = torch.empty(rows, vocab_size, dtype=torch.bfloat16, device="meta")
    uniforms = torch.empty(rows, dtype=torch.float64, device="meta")
    targets = torch.empty(rows, dtype=torch.int64, device="meta")
    with recorder.recording(gpu) as launches:
        if op == "sample_tokens":
            ops[op](logits, None, uniforms, 1.0)
        else:
            ops[op](logits, targets, uniforms, None, -100, "mean", 1.0, False)
    found = [
        (kernels[one.symbol, gpu.capability].name, one.blocks, one.threads, one.shared, one.cluster)
        for one in launches
    ]
    assert [one for one in found if one[0] != "reduce_all_losses"] == expected


def test_the_visit_to_a_row_costs_what_was_counted_by_hand(kernels):
    """Of 32 logits of bfloat16 in the listing for sm_90: 4 loads, an instruction each to make them floats, to subtract,
    to scale, for the exponential and for the sum, one for the maximum; the rest, 30 to 60, is two sums over the warp of
    10 each, addresses and bounds."""
    kernel = next(
        one
        for one in kernels.values()
        if (one.name, one.template, one.capability) == ("sample_row", "BFloat16", 90)
    )
    visit, _ = phases.CUDA["sample_row"](phases.Shape(itemsize=2))
    turn = Routes(kernel.instructions).turn(visit.work)
    assert turn.load == 64
    assert turn.special == 32
    assert 4 + 32 * 6 + 30 <= turn.issue <= 4 + 32 * 6 + 60
