import pytest
import torch

from electra_kernels.models.precision import has_native_bfloat16


@pytest.mark.parametrize(
    "capabilities, expected", [({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({}, False)]
)
def test_a_cpu_is_native_only_with_bfloat16_dot_products(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_native_bfloat16(torch.device("cpu")) is expected


def test_this_machines_cpu_gives_an_answer():
    assert has_native_bfloat16(torch.device("cpu")) in (True, False)
