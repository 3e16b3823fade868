"""Rows of any strides are viewed without a copy, and the Triton back end exists only where it can run."""

import subprocess
import sys

import pytest
import torch

from electra_kernels.triton import launch


def _elements(view):
    """Offsets of all elements from the pointer, as a kernel computes them."""
    rows = torch.arange(view.count) * view.stride if view.offsets is None else view.offsets
    return rows[:, None] + torch.arange(view.size) * view.step


@pytest.mark.parametrize(
    ("shape", "strides", "has_table"),
    [
        ((5,), (1,), False),
        ((4, 5), (5, 1), False),
        ((4, 5), (8, 1), False),
        ((4, 5), (1, 4), False),
        ((4, 5), (0, 2), False),
        ((2, 3, 5), (24, 8, 1), False),
        ((2, 3, 5), (40, 8, 1), True),
        ((2, 3, 5), (5, 10, 1), True),
        ((2, 1, 3, 5), (24, 7, 8, 1), False),
        ((3, 1, 5), (6, 1000, 1), False),
        ((2, 3, 2, 5), (60, 20, 5, 1), True),
        ((1, 5), (99, 1), False),
    ],
)
def test_every_element_is_found(shape, strides, has_table):
    tensor = torch.arange(1000.0).as_strided(shape, strides)
    view = launch.rows_of(tensor)
    assert (view.offsets is not None) == has_table
    assert view.count == tensor[..., 0].numel()
    assert torch.equal(_elements(view).flatten(), tensor.flatten().long())


def test_offsets_do_not_wrap_at_2_to_the_31():
    tensor = torch.empty(1, device="meta").expand(3, 2, 5).as_strided((3, 2, 5), (2**32, 2**30, 1))
    view = launch.rows_of(tensor)
    assert view.offsets.dtype == torch.int64


@pytest.mark.parametrize(
    ("size", "pitch", "offset", "owns_padding", "vector"),
    [
        (64, 64, 0, False, 8),
        (64, 64, 8, False, 8),
        (64, 64, 4, False, 1),
        (60, 64, 0, False, 4),
        (60, 64, 0, True, 8),
        (61, 64, 0, False, 1),
        (61, 64, 0, True, 8),
        (30, 30, 0, False, 2),
        (30, 30, 0, True, 2),
    ],
)
def test_a_vector_is_as_wide_as_all_rows_allow(size, pitch, offset, owns_padding, vector):
    memory = torch.empty(4 * pitch + offset, dtype=torch.bfloat16)
    tensor = memory[offset:].view(4, pitch)[:, :size]
    view = launch.rows_of(tensor, owns_padding=owns_padding)
    assert view.vector == vector
    assert view.ends_in_padding == (size % vector != 0)


def test_columns_that_are_not_adjacent_have_no_vector():
    assert launch.rows_of(torch.empty(8, 16)[:, ::2]).vector == 0


@pytest.mark.parametrize(
    ("rows", "most_parts", "expected"),
    [
        (8, 9, [(1, True, True)]),
        (1, 1, [(1, True, True)]),
        (1, 9, [(9, True, False), (1, False, True)]),
        (3, 9, [(6, True, False), (1, False, True)]),
    ],
)
def test_few_rows_are_scanned_in_parts(monkeypatch, rows, most_parts, expected):
    monkeypatch.setattr(launch, "multiprocessors", lambda device: 4)
    assert launch.row_passes(rows, most_parts, torch.device("cpu")) == expected


def _python(program, **variables):
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", **variables}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_without_a_gpu_triton_is_not_imported():
    program = """
import sys, electra_kernels
print("triton" in sys.modules, electra_kernels.backends().unavailable["triton"])
"""
    assert _python(program) == "False there is no GPU, and TRITON_INTERPRET is not 1"


def test_the_interpreter_serves_the_cpu_on_request():
    program = """
import electra_kernels
report = electra_kernels.backends()
print(report.available["triton"], "triton" in {report.serving[op, "cpu"] for op, _ in report.serving})
"""
    assert _python(program, TRITON_INTERPRET="1") == "('cpu', 'cuda') False"


def test_import_works_without_triton():
    program = """
import sys
sys.modules["triton"] = None
import electra_kernels
print(electra_kernels.backends().unavailable["triton"].partition(":")[0])
"""
    assert _python(program, TRITON_INTERPRET="1") == "triton cannot be imported"
