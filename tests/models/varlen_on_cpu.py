"""CPU kernels for torch.nn.attention.varlen, which has none: a loop over the sequences, from its documentation.

Everything else is torch's own: the public function, its checks, the fake kernel and the autograd formula.
"""

from contextlib import contextmanager

import torch
import torch.nn.attention.varlen  # defines the ops
from torch.nn import functional as F


@contextmanager
def varlen_on_cpu():
    """Yields a list to which each forward call adds its (offsets, max_q)."""
    calls = []

    def forward(query, key, value, offsets, offsets_k, max_q, max_k, causal, scale, window=None, *_):
        _check(query, key, value, offsets, offsets_k, max_q, max_k)
        calls.append((offsets.clone(), max_q))
        lse = query.new_zeros(query.shape[1], query.shape[0], dtype=torch.float)
        return _attend(query, key, value, offsets, window), lse, torch.zeros(2, dtype=torch.uint64)

    def backward(upstream, query, key, value, out, lse, offsets, *rest):
        window = rest[-1] if isinstance(rest[-1], (list, tuple)) else None
        return _gradients(upstream, query, key, value, offsets, window)

    library = torch.library.Library("torch_attn", "IMPL")
    library.impl("_varlen_attn", forward, "CPU")
    library.impl("_varlen_attn_backward", backward, "CPU")
    try:
        yield calls
    finally:
        library._destroy()


def _sequences(offsets, *tensors):
    """The parts [heads, length, d] of each tensor [tokens, heads, d] that belong to one sequence, for each of them."""
    return zip(*(torch.split(tensor.transpose(0, 1), offsets.diff().tolist(), 1) for tensor in tensors))


def _near(length, window):
    """Bool [length, length], True where a query attends to a key: the (left, right) of varlen_attn, -1 is any."""
    left, right = window or (-1, -1)
    distance = torch.arange(length) - torch.arange(length)[:, None]
    return ((distance >= -left) | (left < 0)) & ((distance <= right) | (right < 0))


def _attend(query, key, value, offsets, window):
    parts = [
        F.scaled_dot_product_attention(*parts, _near(parts[0].shape[1], window))
        for parts in _sequences(offsets, query, key, value)
    ]
    return torch.cat(parts, 1).transpose(0, 1).contiguous()


def _gradients(upstream, query, key, value, offsets, window):
    """The gradients of softmax(query key' scale) value. Autograd cannot be used below the dispatcher's autograd key."""
    scale, gradients = query.shape[-1] ** -0.5, []
    for up, q, k, v in _sequences(offsets, upstream, query, key, value):
        shares = (q @ k.mT * scale).masked_fill(~_near(q.shape[1], window), -torch.inf).softmax(-1)
        of_shares = up @ v.mT
        of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdim=True)) * scale
        gradients.append((of_scores @ k, of_scores.mT @ q, shares.mT @ up))
    return tuple(torch.cat(parts, 1).transpose(0, 1).contiguous() for parts in zip(*gradients))


def _check(query, key, value, offsets, offsets_k, max_q, max_k):
    """What the kernel takes for granted, and reads out of bounds without."""
    assert offsets.dtype == offsets_k.dtype == torch.int32
    assert offsets.is_contiguous()
    assert torch.equal(offsets, offsets_k)
    assert offsets[0] == 0
    assert offsets[-1] == query.shape[0]
    lengths = offsets.diff()
    assert lengths.min() >= 0
    assert lengths.max() <= max_q == max_k
    for part in (query, key, value):
        assert part.dim() == 3
        assert part.stride(-1) == 1
        assert part.data_ptr() % 16 == 0
