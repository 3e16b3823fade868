"""`draw_uniforms`, the only source of randomness, has 48 random bits, eager and compiled."""

import pytest
import torch

from electra_kernels import draw_uniforms


def _assert_all_bits_vary(uniforms):
    """Asserts float64 in [0, 1) with 48 even bits, whose low and high halves are uncorrelated."""
    assert uniforms.dtype == torch.float64
    assert bool(((uniforms >= 0) & (uniforms < 1)).all())
    integers = (uniforms * 2.0**48).long()
    for bit in range(48):
        ones = (integers >> bit & 1).double().mean().item()
        assert abs(ones - 0.5) < 5 * 0.5 / len(uniforms) ** 0.5, f"bit {bit} is set in {ones:.1%}"
    low, high = integers % 2**24, integers // 2**24
    assert torch.corrcoef(torch.stack([low, high]).double())[0, 1].abs() < 0.05


@pytest.mark.parametrize("backend", [None, "aot_eager", "inductor"])
def test_all_bits_vary(device, backend):
    draw = draw_uniforms if backend is None else torch.compile(draw_uniforms, fullgraph=True, backend=backend)
    _assert_all_bits_vary(draw((20_000,), device=device))


def test_one_is_never_reached(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # this path joins two draws
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.full((3,), 1 - 2.0**-24))
    uniforms = draw_uniforms((3,))
    assert uniforms.max() < 1
    assert uniforms.max() == 1 - 2.0**-48


def test_a_generator_reproduces_the_draw_and_its_device_is_used(device):
    first, second = (
        draw_uniforms((5, 2), generator=torch.Generator(device).manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.device.type == device.type
    assert draw_uniforms((3,), device=device).device.type == device.type
    assert not torch.equal(draw_uniforms((5, 2), device=device), draw_uniforms((5, 2), device=device))


def test_empty_and_scalar_shapes_are_legal(device):
    assert draw_uniforms((0, 3), device=device).shape == (0, 3)
    assert draw_uniforms((), device=device).shape == ()
