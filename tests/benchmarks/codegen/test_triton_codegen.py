"""The Triton kernels, compiled at pre-training shapes without a GPU, have no faults; and faults are found."""

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl

from benchmarks.codegen import assembly, compilation, report
from benchmarks.codegen.cases import Case, pretraining_cases
from benchmarks.codegen.launches import Launch
from benchmarks.codegen.triton_kernels import TritonKernels
from electra_kernels.triton import launch

try:
    compilation.target_of(90)
except compilation.CannotCompileError as error:
    pytest.skip(str(error), allow_module_level=True)

# One precision and one architecture, to save time; `make audit` compiles all of them and fails too.
CASES = [case for case in pretraining_cases() if case.dtype != torch.float32]
OPS = sorted({case.op for case in CASES})


@pytest.mark.parametrize("op", OPS)
def test_no_kernel_spills_or_has_narrow_accesses(op):
    compiled = TritonKernels([90])
    for case in CASES:
        if case.op == op:
            compiled.add(case)
    assert compiled.records
    assert report.faults(compiled.records.values()) == []


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


def compiled_record(kernel, *arguments, num_warps=4, architecture=90, **constants):
    def run():
        launch.run(kernel, 1, *arguments, num_warps=num_warps, **constants)

    compiled = TritonKernels([architecture], {"op": run})
    compiled.add(Case("op", {}, torch.float32, (), streamed=("x", "out")))
    (record,) = compiled.records.values()
    return record


# Triton specialises on whether pointers and strides are multiples of 16, and on nothing else.
@pytest.mark.parametrize("offset, pitch, width", [(0, 4096, 16), (0, 4100, 4), (1, 4096, 4)])
def test_widths_depend_on_the_alignment_of_pointers_and_strides(offset, pitch, width):
    memory = torch.empty(2 * pitch + 8)
    start = -memory.data_ptr() // 4 % 4 + offset
    found = compiled_record(
        copy_rows, memory[start:], torch.empty(2, pitch, device="meta"), pitch, WIDTH=1024
    )
    assert found["loads"] == {width: 32 // width}
    assert found["arguments"]["x"]["loads"] == {width: 32 // width}
    assert found["arguments"]["out"]["stores"] == ({16: 2} if pitch == 4096 else {4: 8})


def test_narrow_accesses_are_a_fault():
    x = torch.empty(2, 4096, device="meta")
    narrow = compiled_record(copy_rows, x, x, 4098, WIDTH=1024)
    assert any("x by 4 bytes a thread, could be 16" in fault for fault in report.faults([narrow]))
    assert report.faults([compiled_record(copy_rows, x, x, 4096, WIDTH=1024)]) == []


@triton.jit(do_not_specialize=["count"])
def copy_numbers(x, out, count, WIDTH: tl.constexpr):  # noqa: N803
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    if tl.program_id(0) * WIDTH + WIDTH <= count:
        tl.store(out + columns, tl.load(x + columns))
    else:
        tl.store(out + columns, tl.load(x + columns, columns < count), columns < count)


def test_narrow_accesses_of_only_the_last_block_are_no_fault():
    x = torch.empty(5000, device="meta")
    found = compiled_record(copy_numbers, x, x, 5000, WIDTH=1024)
    assert found["arguments"]["x"]["loads"] == {16: 2, 4: 8}
    assert report.faults([found]) == []


def test_spills_are_a_fault():
    x = torch.empty(4096, device="meta")
    spilling = compiled_record(count_smaller, x, x, num_warps=1, WIDTH=4096)
    assert spilling["spill_stores"] > 0
    assert spilling["stack_bytes"] > 0
    assert any("spills" in fault for fault in report.faults([spilling]))


def test_registers_and_widths_are_read_from_amd_assembly():
    x = torch.empty(2, 4096, device="meta")
    found = compiled_record(copy_rows, x, x, 4096, WIDTH=1024, architecture=compilation.AMD_ARCHITECTURE)
    assert found["vgpr_count"] > 0
    assert found["loads"] == {16: 1}


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
    # The address depends on loaded data: a scatter, which cannot be vectorised.
    assert second == assembly.Access(argument=1, is_load=False, size=2, is_streamed=False)


# A kernel as compilers leave it, with a slow path of float64 division and padding behind its end.
LISTING = """
        /*0000*/    S2R R0, SR_TID.X ;
        /*0010*/    @P5 EXIT ;
.L_x_0:
        /*0030*/    LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/    LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0050*/    STL.64 [R1+0x8], R4 ;
        /*0060*/    @P3 BRA `(.L_x_0) ;
        /*0070*/    LDG.E R4, desc[UR4][R2.64] ;
        /*0080*/    @!P0 LDL.64 R4, [R1+0x8] ;
        /*0090*/    LDG.E.U8 R7, desc[UR4][R2.64+0xc] ;
        /*0150*/    STG.E desc[UR4][R2.64], R1 ;
        /*0160*/    EXIT ;
        /*0170*/    NOP;
$__internal_0_$__cuda_sm20_div_rn_f64_full:
        /*01a0*/    DFMA R2, R4, R6, R8 ;
        /*01b0*/    STL [R1], R2 ;
"""


def test_instructions_end_where_the_kernel_does():
    names = assembly.instructions(LISTING)
    assert (len(names), names[0], names[-1]) == (11, "S2R", "EXIT")
    assert assembly.spills(names) == (1, 1)
    assert assembly.widths(names, "LDG") == {1: 1, 4: 1, 16: 2}
    assert assembly.widths(names, "STG") == {4: 1}


def test_the_tensors_of_a_launch_have_the_names_of_the_kernel():
    x = torch.empty(2, 4096, device="meta")
    given = Launch(copy_rows, 1, (x, x, 4096), 4, {"WIDTH": 1024})
    assert list(given.tensors) == ["x", "out"]


def test_the_table_has_a_line_for_each_kernel():
    x = torch.empty(2, 4096, device="meta")
    records = [
        compiled_record(copy_rows, x, x, pitch, architecture=architecture, WIDTH=1024)
        for pitch in (4096, 4098)
        for architecture in (80, 90, compilation.AMD_ARCHITECTURE)
    ]
    *_, line = report.table(records).splitlines()
    registers = (max(one["registers"] for one in records[first::3]) for first in range(3))
    assert line.startswith("| triton `copy_rows` | 2 | ")
    assert all(str(number) in line for number in registers)
    # No spills and no shared memory, 4 bytes where the stride is odd.
    assert line.endswith(" | 0 | 0 | 4 | 4 |")
