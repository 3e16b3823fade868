"""The Triton kernels compiled at their real shapes for a GPU that is not here; and the audit sees what is wrong."""

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from benchmarks.audit import assembly, compilation, gpus, prediction, report, traffic
from benchmarks.audit.cases import Case, real_cases
from benchmarks.audit.launches import Launch, launches_of
from benchmarks.audit.routes import Cost, Routes, Work
from benchmarks.audit.triton_audit import TritonAudit
from electra_kernels.triton import launch

try:
    compilation.target_of(90)
except compilation.CannotCompileError as error:
    pytest.skip(str(error), allow_module_level=True)

# One precision and one architecture, for the time; `make audit` has all, and fails too.
CASES = [case for case in real_cases() if case.dtype != torch.float32]
OPS = sorted({case.op for case in CASES})
SHAPED = {"sizes": {}, "dtype": torch.float32, "arguments": (), "least": 1, "again": 0}


def faults_of(*, kernels=(), traffic=()):
    return report.faults({"kernels": list(kernels), "traffic": list(traffic)})


@pytest.mark.parametrize("op", OPS)
def test_no_kernel_spills_or_moves_its_data_in_small_pieces(op):
    audit = TritonAudit([90])
    for case in CASES:
        if case.op == op:
            audit.op(case)
    assert audit.kernels
    assert faults_of(kernels=audit.kernels.values()) == []


def test_no_kernel_asks_for_more_bytes_than_its_formula():
    counted = traffic.counted()
    assert {one["op"] for one in counted} == set(OPS)
    assert faults_of(traffic=counted) == []
    # Less than all inputs and outputs once: a formula that is too large would find nothing.
    assert all(one["asked_bytes"] > 0.99 * one["least_bytes"] for one in counted)


@triton.jit
def copy_rows(x, out, stride, WIDTH: tl.constexpr):  # noqa: N803
    columns = tl.arange(0, WIDTH)
    tl.store(out + tl.program_id(0) * stride + columns, tl.load(x + tl.program_id(0) * stride + columns))


@triton.jit
def count_smaller(x, out, WIDTH: tl.constexpr):  # noqa: N803
    columns = tl.arange(0, WIDTH)
    values = tl.load(x + columns)
    total = tl.zeros([WIDTH], tl.float32)
    for rounds in range(4):
        total += tl.cumsum(values + total, 0) * tl.cumsum(values * rounds, 0)
    tl.store(out + columns, total * values)


def audited(kernel, *arguments, num_warps=4, streamed=("x", "out"), architecture=90, **constants):
    def run():
        launch.run(kernel, 1, *arguments, num_warps=num_warps, **constants)

    # Its phases are not known, so no time can be predicted.
    audit = TritonAudit([architecture], {"op": run})
    case = Case("op", elements={}, streamed=streamed, **SHAPED)
    (given,) = launches_of(run, 1, 1)
    audit._kernel(given, architecture, case)
    (kernel,) = audit.kernels.values()
    return kernel


# Triton asks of pointers and strides whether they are multiples of 16, and no more.
@pytest.mark.parametrize("offset, pitch, width", [(0, 4096, 16), (0, 4100, 4), (1, 4096, 4)])
def test_widths_are_those_of_a_launch_with_these_pointers_and_strides(offset, pitch, width):
    memory = torch.empty(2 * pitch + 8)
    start = -memory.data_ptr() // 4 % 4 + offset
    found = audited(copy_rows, memory[start:], torch.empty(2, pitch, device="meta"), pitch, WIDTH=1024)
    assert found["loads"] == {width: 32 // width}
    assert found["arguments"]["x"]["loads"] == {width: 32 // width}
    assert found["arguments"]["out"]["stores"] == ({16: 2} if pitch == 4096 else {4: 8})


def test_small_pieces_are_a_fault():
    x = torch.empty(2, 4096, device="meta")
    narrow = audited(copy_rows, x, x, 4098, WIDTH=1024)
    assert any("x by 4 bytes a thread, could be 16" in fault for fault in faults_of(kernels=[narrow]))
    assert faults_of(kernels=[audited(copy_rows, x, x, 4096, WIDTH=1024)]) == []


@triton.jit(do_not_specialize=["count"])
def copy_numbers(x, out, count, WIDTH: tl.constexpr):  # noqa: N803
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    if tl.program_id(0) * WIDTH + WIDTH <= count:
        tl.store(out + columns, tl.load(x + columns))
    else:
        tl.store(out + columns, tl.load(x + columns, columns < count), columns < count)


def test_small_pieces_of_the_last_block_alone_are_no_fault():
    x = torch.empty(5000, device="meta")
    found = audited(copy_numbers, x, x, 5000, WIDTH=1024)
    assert found["arguments"]["x"]["loads"] == {16: 2, 4: 8}
    assert faults_of(kernels=[found]) == []


def test_spills_are_a_fault():
    x = torch.empty(4096, device="meta")
    spilling = audited(count_smaller, x, x, num_warps=1, WIDTH=4096)
    assert spilling["spill_stores"] > 0
    assert spilling["stack_bytes"] > 0
    assert any("spills" in fault for fault in faults_of(kernels=[spilling]))


def test_too_many_bytes_are_a_fault():
    counted = {"op": "op", "sizes": {"N": 2}, "dtype": "float32", "asked_bytes": 102, "allowed_bytes": 101}
    assert len(faults_of(traffic=[counted])) == 1
    assert faults_of(traffic=[counted | {"asked_bytes": 101}]) == []


def test_amd_says_its_registers():
    x = torch.empty(2, 4096, device="meta")
    found = audited(copy_rows, x, x, 4096, WIDTH=1024, architecture=compilation.AMD_ARCHITECTURE)
    assert found["vgpr_count"] > 0
    assert found["loads"] == {16: 1}


# As NVIDIA's occupancy calculator has it.
@pytest.mark.parametrize(
    "capability, registers, shared, warps, expected",
    [(80, 32, 0, 4, 16), (80, 33, 0, 4, 12), (90, 128, 0, 16, 1), (90, 64, 0, 32, 1), (90, 255, 0, 4, 2),
     (80, 32, 48 << 10, 4, 3), (90, 32, 48 << 10, 4, 4), (100, 16, 0, 1, 32)],
)  # fmt: skip
def test_programs_at_once(capability, registers, shared, warps, expected):
    gpu = next(gpu for gpu in gpus.GPUS if gpu.capability == capability)
    assert gpus.programs_at_once(gpu, registers, shared, warps) == expected


def test_the_slowest_unit_bounds_the_time():
    h100 = gpus.GPUS[1]
    bounds = gpus.seconds(h100, h100.bandwidth, {"issue": 0.0, "special": 0.0, "double": 0.0})
    assert bounds["memory"] == 1
    instructions = {"issue": 132 * 128 * 1.98e9, "special": 132 * 16 * 1.98e9, "double": 132 * 64 * 1.98e9}
    assert gpus.seconds(h100, 0.0, instructions) == pytest.approx(
        {"memory": 0, "issue": 1, "special": 1, "double": 1}
    )


def test_an_address_is_followed_back_to_its_argument_through_a_loop():
    ptx = """
    .param .u64 .ptr .global .align 1 f_param_0,
    .param .u64 .ptr .global .align 1 f_param_1,
    .param .u32 f_param_2
    ld.param.b64 \t%rd1, [f_param_0];
    ld.param.b64 \t%rd2, [f_param_1];
    ld.param.b32 \t%r9, [f_param_2];
    mov.u32 \t%r1, %tid.x;
    mul.wide.u32 \t%rd3, %r1, 16;
    add.s64 \t%rd4, %rd1, %rd3;
    $L: add.s64 \t%rd4, %rd4, 64;
    @%p1 ld.global.L1::evict_first.v4.b32 { %r2, %r3, %r4, %r5 }, [ %rd4 + 0 ];
    mad.wide.u32 \t%rd5, %r2, 4, %rd2;
    @%p1 st.global.b16 [ %rd5 + 0 ], { %rs1 };
    """
    first, second = assembly.accesses(ptx)
    assert first == assembly.Access(argument=0, is_load=True, size=16, is_streamed=True)
    # Where it goes is data: a scatter, which no vector serves.
    assert second == assembly.Access(argument=1, is_load=False, size=2, is_streamed=False)


# A kernel as compilers leave it. Work of a turn: load 16 bytes, take a reciprocal, add. Two turns in one; what remains;
# numbers one by one where they are not aligned, and a slow path behind the end that jumps back into the loop.
LISTING = """
        /*0000*/    S2R R0, SR_TID.X ;
        /*0010*/    @P5 EXIT ;
        /*0020*/    @P4 BRA `(.L_x_6) ;
.L_x_0:
        /*0030*/    LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/    LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0050*/    MUFU.RCP R4, R4 ;
        /*0060*/    @P3 BRA `(.L_x_9) ;
.L_x_1:
        /*0070*/    MUFU.RCP R8, R8 ;
        /*0080*/    FADD R1, R1, R4 ;
        /*0090*/    FADD R1, R1, R8 ;
        /*00a0*/    @P0 BRA `(.L_x_0) ;
.L_x_2:
        /*00b0*/    @P1 BRA `(.L_x_4) ;
        /*00c0*/    LDG.E.128 R4, desc[UR4][R2.64] ;
        /*00d0*/    BRA `(.L_x_5) ;
.L_x_4:
        /*00e0*/    LDG.E R4, desc[UR4][R2.64] ;
        /*00f0*/    LDG.E R5, desc[UR4][R2.64+0x4] ;
        /*0100*/    LDG.E R6, desc[UR4][R2.64+0x8] ;
        /*0110*/    LDG.E R7, desc[UR4][R2.64+0xc] ;
.L_x_5:
        /*0120*/    MUFU.RCP R4, R4 ;
        /*0130*/    FADD R1, R1, R4 ;
        /*0140*/    @!P0 BRA `(.L_x_2) ;
.L_x_6:
        /*0150*/    STG.E desc[UR4][R2.64], R1 ;
        /*0160*/    EXIT ;
.L_x_9:
        /*0170*/    MUFU.RCP R5, R5 ;
        /*0180*/    MUFU.RCP R6, R6 ;
        /*0190*/    BRA `(.L_x_1) ;
$__internal_0_$__cuda_sm20_div_rn_f64_full:
        /*01a0*/    DFMA R2, R4, R6, R8 ;
.L_x_10:
        /*01b0*/    BRA `(.L_x_10);
        /*01c0*/    NOP;
"""


def test_work_costs_its_cheapest_route():
    routes = Routes(assembly.instructions(LISTING))
    assert len(routes.loops) == 2, "the slow path is none"
    # Half of eight instructions; of the loop that remains a turn takes six.
    assert routes.turn(Work({"load": 16, "special": 1})) == Cost(4, 1, 0, 16, 0, 16)
    # More reciprocals than loads: only the slow path has them.
    assert routes.turn(Work({"load": 32, "special": 4})).issue == 8 + 3
    # Where each number is loaded by itself: 2 + 4 + 3 of the loop.
    assert routes.turn(Work({"load": 16, "LDG": 4})).issue == 1 + 4 + 3
    assert routes.turn(Work({"store": 4})) is None


def test_a_route_through_a_kernel_leaves_loops_out_unless_there_is_work_in_them():
    routes = Routes(assembly.instructions(LISTING))
    assert routes.through(Work({})).issue == 2
    assert routes.through(Work({"store": 4})).issue == 3 + 2
    # Both loops, since the second follows the first.
    assert routes.through(Work({"load": 1})).issue == 3 + 8 + 6 + 2
    assert routes.through(Work({"load": 48}, exact=("load",))).issue == 3 + 8 + 6 + 2
    assert routes.through(Work({"load": 32}, exact=("load",))) is None


def test_instructions_end_where_the_kernel_does_and_know_where_they_go():
    everything = assembly.instructions(LISTING)
    assert everything[-1].address == 0x190
    by_address = {one.address: one for one in everything}
    assert not by_address[0x160].goes_on
    assert by_address[0x10].goes_on, "it ends some threads"
    assert by_address[0xD0].jumps_to == (0x120,)
    assert not by_address[0xD0].goes_on
    assert by_address[0xA0].goes_on


def kernel_record(name, *, once, turn, at_once=1):
    """A kernel that goes over logits, four at a time."""
    zero = {"issue": 0, "special": 0, "double": 0}
    phases = [] if turn is None else [{"of": "logits", "elements": 4, **zero, "issue": turn}]
    return {
        "id": name,
        "kernel": name,
        "once": {**zero, "issue": once},
        "phases": phases,
        "programs_at_once": at_once,
    }


def test_instructions_are_those_of_all_threads():
    case = Case("op", elements={"logits": 4000}, **SHAPED)
    streams, joins = kernel_record("streams", once=10, turn=7), kernel_record("joins", once=3, turn=None)
    launched = [
        prediction.Launched(streams, 5, 32),
        prediction.Launched(streams, 15, 32),
        prediction.Launched(joins, 1, 64),
    ]
    assert prediction._executed("issue", case, launched) == 10 * 20 * 32 + 7 * 1000 + 3 * 64


def test_what_is_read_again_comes_from_the_cache_if_it_holds_what_is_under_way():
    h100 = gpus.GPUS[1]
    count = 1 << 26  # 256 MiB, five times the cache
    case = Case("op", elements={"logits": count}, **{**SHAPED, "least": 4 * count})
    one = kernel_record("one", once=0, turn=0)
    other = kernel_record("other", once=0, turn=0)
    # An 1/20 of it at a time; by two kernels one after the other; in ten chunks.
    few = prediction.predicted(h100, case, [prediction.Launched(one, 20 * 132, 32)], again=100)
    both = [prediction.Launched(kernel, 20 * 132, 32) for kernel in (one, other)]
    assert few["memory_bytes"] == 4 * count
    assert few["under_way_bytes"] == pytest.approx(4 * count / 20, abs=1)
    assert prediction.predicted(h100, case, both, again=100)["memory_bytes"] == 4 * count + 100
    assert prediction.predicted(h100, case, both * 10, again=100)["memory_bytes"] == 4 * count


def test_every_kernel_is_known_by_its_own_names():
    x = torch.empty(2, 4096, device="meta")
    given = Launch(copy_rows, 1, (x, x, 4096), 4, {"WIDTH": 1024})
    assert list(given.tensors) == ["x", "out"]
