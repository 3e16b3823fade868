import contextlib
import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from electra_kernels.models import Encoder, EncoderConfig
from electra_kernels.models import encoder as encoder_module
from electra_kernels.models.attention import (
    Layout,
    attend,
    packed_layout,
    padded_layout,
    positions_in_pieces,
    varlen_is_available,
)

from .varlen_on_cpu import varlen_on_cpu

CONFIG = EncoderConfig(100, 16, 32, 2, 4, 64, max_position_embeddings=30, dropout=0.0)
KINDS = {
    "electra": {},
    "modern": {"family": "modern", "embedding_size": 32},
    "modern-bias": {"family": "modern", "embedding_size": 32, "bias": True},
    "modern-local": {"family": "modern", "embedding_size": 32, "global_every": 2, "local_window": 6},
}
EVERY_KIND = list(KINDS)
# Lengths of the pieces of each row of 24: padding at the end, a full row, one piece, pieces of one token.
PIECES = [[7, 9, 3], [14, 10], [24], [1, 2, 1, 12]]
LENGTH = 24


def encoder(**changes):
    torch.manual_seed(0)
    module = Encoder(dataclasses.replace(CONFIG, **changes))
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module


def packed(pieces=PIECES, length=LENGTH):
    """Random ids [B, T], and segments 1, 2, ... with padding at the end."""
    rows = [[number for number, size in enumerate(row, 1) for _ in range(size)] for row in pieces]
    segments = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    ids = torch.randint(1, 100, segments.shape, generator=torch.Generator().manual_seed(1))
    return ids * (segments > 0), segments


def alone(module, ids, segments):
    """The hidden states of the real tokens of a packed batch, each piece computed as a row of its own: [N, H]."""
    states = []
    for row, numbers in zip(ids, segments):
        states += [module(row[numbers == n][None])[0] for n in range(1, int(numbers.max()) + 1)]
    return torch.cat(states)


def gradients(module, hidden):
    """The gradients of all parameters, for an upstream gradient that is another one for every number."""
    module.zero_grad()
    weight = torch.sin(torch.arange(hidden.numel(), dtype=hidden.dtype)).view_as(hidden)
    (hidden * weight).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def assert_equal_to_alone(module, ids, segments, tolerance):
    hidden = module(ids, segments=segments)[segments > 0]
    expected = alone(module, ids, segments)
    assert (hidden - expected).abs().max() <= tolerance
    ours, theirs = gradients(module, hidden), gradients(module, expected)
    for name, gradient in ours.items():
        scale = max(1.0, float(theirs[name].abs().max()))
        assert (gradient - theirs[name]).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_packed_piece_has_the_states_and_gradients_it_has_alone(kind, dtype, tolerance):
    module = encoder(**KINDS[kind]).to(dtype)
    assert_equal_to_alone(module, *packed(), tolerance)


@pytest.mark.parametrize("max_pieces", [None, 4])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_with_varlen_attention_too(monkeypatch, kind, max_pieces):
    monkeypatch.setattr(encoder_module, "varlen_is_available", lambda *_: True)
    module = encoder(**KINDS[kind]).double()
    module.max_pieces = max_pieces
    ids, segments = packed()
    with varlen_on_cpu() as calls:
        assert_equal_to_alone(module, ids, segments, 1e-12)
        hidden = module(ids, segments=segments)
        module(*packed([[24], [3, 4], [8, 8, 8], [5]]))
    assert torch.isfinite(hidden).all()  # padding is a sequence as well
    assert {(len(offsets), max_q) for offsets, max_q in calls} == {(4 * (5 if max_pieces else 24) + 1, 24)}


def test_the_sequences_of_a_packed_batch_are_its_pieces_and_its_padding():
    _, segments = packed()
    offsets = packed_layout(segments, LENGTH, varlen=True).offsets
    sizes = offsets.diff()
    expected = [size for row in PIECES for size in [*row, LENGTH - sum(row)] if size]
    assert sizes[sizes > 0].tolist() == expected
    assert offsets.dtype == torch.int32
    few = packed_layout(segments, 5, varlen=True).offsets
    assert few.tolist() == [bound for row in offsets[:-1].view(4, -1)[:, :5].tolist() for bound in row] + [96]


def test_the_mask_of_a_packed_batch_is_block_diagonal():
    mask = packed_layout(packed([[2, 1]], 4)[1], 4, varlen=False).mask
    expected = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1), torch.ones(1, 1)).bool()
    assert torch.equal(mask, expected[None, None])


def test_positions_count_from_the_start_of_a_piece_and_are_0_at_padding():
    _, segments = packed([[3, 1, 2], [7]], 8)
    assert positions_in_pieces(segments).tolist() == [[0, 1, 2, 0, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6, 0]]


def test_a_row_with_more_pieces_than_announced_is_nan_and_no_other():
    module, (ids, segments) = encoder(), packed([[5, 5], [5, 5, 5, 9], [8, 8, 8], [24]])
    expected = module(ids, segments=segments)
    module.max_pieces = 2
    hidden = module(ids, segments=segments)
    assert torch.isnan(hidden[1]).all()
    # Three pieces fit as well where there is no padding.
    others = torch.tensor([0, 2, 3])
    assert torch.equal(hidden[others], expected[others])


def test_a_packed_row_may_be_longer_than_the_absolute_positions_but_no_piece_may():
    module = encoder()
    ids, segments = packed([[30, 20], [1]], 50)
    assert torch.isfinite(module(ids, segments=segments)).all()
    with pytest.raises(ValueError, match="segments has a piece of 31 tokens, should have at most 30 in each"):
        module(*packed([[31, 9]], 50)[:1], segments=packed([[31, 9]], 50)[1])


def test_segments_decide_alone_where_an_attention_mask_is_given_too():
    module, (ids, segments) = encoder(), packed()
    assert torch.equal(module(ids, segments > 0, segments=segments), module(ids, segments=segments))


def test_other_pieces_do_not_matter_however_large_they_are():
    query, key, value = torch.randn(3, 1, 6, 2, 8)
    segments = torch.tensor([[1, 1, 1, 2, 2, 0]])
    layout = packed_layout(segments, 6, varlen=False)
    expected = attend(query, key, value, layout)
    key[:, 3:] = 1e30
    assert torch.equal(attend(query, key, value, layout)[:, :3], expected[:, :3])


@pytest.mark.parametrize("masked", [False, True])
def test_rows_with_one_piece_are_torch_attention_bit_for_bit(masked):
    parts = [torch.randn(3, 5, 2, 8).requires_grad_() for _ in range(3)]
    mask = torch.ones(3, 5, dtype=torch.int64)
    mask[1, 2:] = 0
    heads_first = [part.detach().transpose(1, 2).requires_grad_() for part in parts]
    theirs = F.scaled_dot_product_attention(*heads_first, mask.bool()[:, None, None] if masked else None)
    ours = attend(*parts, padded_layout(mask if masked else None))
    assert torch.equal(ours, theirs.transpose(1, 2))
    upstream = torch.randn_like(ours)
    ours.backward(upstream)
    theirs.backward(upstream.transpose(1, 2))
    for part, expected in zip(parts, heads_first):
        assert torch.equal(part.grad, expected.grad.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_equals_float32_rounded_once(dtype):
    parts = [torch.randn(2, 5, 3, 8, dtype=dtype).requires_grad_() for _ in range(3)]
    upstream = torch.randn(2, 5, 3, 8, dtype=dtype)
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    wide = [part.detach().float().requires_grad_() for part in parts]
    expected = attend(*wide, Layout(mask))
    expected.backward(upstream.float())
    for context in (contextlib.nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        for part in parts:
            part.grad = None
        with context:
            attended = attend(*parts, Layout(mask))
        attended.backward(upstream)
        assert torch.equal(attended, expected.to(dtype))
        for part, of_float32 in zip(parts, wide):
            assert torch.equal(part.grad, of_float32.grad.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_attention_on_the_meta_device_has_the_right_shape_and_dtype(dtype):
    attended = attend(*torch.empty(3, 2, 5, 3, 8, dtype=dtype, device="meta"), Layout())
    assert (attended.shape, attended.dtype) == ((2, 5, 3, 8), dtype)


@pytest.mark.parametrize(
    "device, dtype, head_size, expected",
    [
        ("cuda", torch.bfloat16, 64, True),
        ("cuda", torch.float16, 256, True),
        ("cuda", torch.float32, 64, False),
        ("cuda", torch.bfloat16, 20, False),
        ("cuda", torch.bfloat16, 264, False),
        ("cpu", torch.bfloat16, 64, False),
    ],
)
def test_varlen_attention_needs_cuda_half_precision_and_a_head_size_that_it_takes(
    monkeypatch, device, dtype, head_size, expected
):
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert varlen_is_available(torch.device(device), dtype, head_size) is expected
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not varlen_is_available(torch.device(device), dtype, head_size)


def _asked_dtypes(monkeypatch, module, autocast):
    asked = []
    monkeypatch.setattr(encoder_module, "varlen_is_available", lambda *key: bool(asked.append(key)))
    ids, segments = packed()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        module(ids, segments=segments)
    ((device, dtype, head_size),) = asked
    assert (device.type, head_size) == ("cpu", 8)
    return dtype


def test_varlen_attention_is_asked_for_once_with_the_dtype_that_the_layers_compute_in(monkeypatch):
    assert _asked_dtypes(monkeypatch, encoder(), autocast=True) == torch.bfloat16
    assert _asked_dtypes(monkeypatch, encoder().bfloat16(), autocast=False) == torch.bfloat16
    assert _asked_dtypes(monkeypatch, encoder(), autocast=False) == torch.float32


def test_with_dropout_the_mask_is_used_since_varlen_attention_has_none(monkeypatch):
    monkeypatch.setattr(encoder_module, "varlen_is_available", lambda *_: True)
    module, (ids, segments) = encoder(dropout=0.1), packed()
    with varlen_on_cpu() as calls:
        module(ids, segments=segments)
        assert not calls
        module(ids, segments=segments, dropout=False)
        module.eval()(ids, segments=segments)
        assert len(calls) == 2 * len(module.layers)


def test_varlen_attention_traces_on_a_gpu_that_is_not_there():
    with FakeTensorMode():
        qkv = torch.empty(3, 24, 3, 4, 64, dtype=torch.bfloat16, device="cuda")
        offsets = torch.empty(3 * 24 + 1, dtype=torch.int32, device="cuda")
        attended = attend(*qkv.unbind(2), Layout(offsets=offsets))
    assert (attended.shape, attended.dtype, attended.device.type) == ((3, 24, 4, 64), torch.bfloat16, "cuda")


@pytest.mark.parametrize("varlen", [False, True])
def test_an_encoder_of_packed_rows_compiles_into_one_graph(monkeypatch, varlen):
    if varlen:
        monkeypatch.setattr(encoder_module, "varlen_is_available", lambda *_: True)
    module, (ids, segments) = encoder(), packed()
    with varlen_on_cpu():
        expected = module(ids, segments=segments)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(ids, segments=segments)
        assert (compiled - expected).abs().max() <= 2e-6
        ours, theirs = gradients(module, compiled), gradients(module, expected)
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).abs().max() <= 1e-4, name
