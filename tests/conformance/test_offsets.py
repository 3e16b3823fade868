"""Offsets and counts beyond 32 bits."""

import math
import mmap

import pytest
import torch

from electra_kernels import (
    backends,
    cross_entropy_sample,
    linear_cross_entropy_sample,
    linear_masked_bce,
    mask_tokens,
    masked_bce_with_logits,
    replace_tokens,
    sample_replacements,
    sample_tokens,
)
from electra_kernels.backends.registry import current_choice

from .cases import build, tensor_arguments

LIMIT = 2**31


def zeros(shape, dtype, device):
    """On a CPU, memory that the system provides page by page where it is touched, and not for reading zeros."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)


def far_apart(values, dimension):
    """The same values, the last of the dimension more than 2^31 elements behind the first."""
    strides = list(torch.empty(values.shape, device="meta").stride())
    strides[dimension] = LIMIT // (values.shape[dimension] - 1) + 1
    elements = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides))
    view = zeros((elements,), values.dtype, values.device).as_strided(values.shape, strides)
    return view.copy_(values)


FAR = [
    (name, argument)
    for name, argument in tensor_arguments()
    if (name, argument) != ("linear_masked_bce", "bias")
]


def outputs_and_gradients(case, argument, value):
    leaves = case.leaves()
    changed = {argument: value.requires_grad_(argument in leaves)}
    outputs = case.outputs(**{**leaves, **changed})
    gradients = []
    if leaves:
        loss = next(output for output in outputs if output.requires_grad)
        gradients = torch.autograd.grad(loss.sum(), [*{**leaves, **changed}.values()][: len(leaves)])
    return [*(output.detach() for output in outputs), *gradients]


@pytest.mark.parametrize(("name", "argument"), FAR)
def test_elements_more_than_2_31_apart(device, name, argument):
    case = build(name, device)
    values = case.tensors[argument]
    # A CPU provides the few pages that are touched.
    skip_without({"cuda": 1.1 * LIMIT * values.element_size()}, device)
    near = outputs_and_gradients(case, argument, values.clone())
    for dimension in {0, values.dim() - 1}:
        # Nothing keeps the memory of one dimension while the next one is tried.
        far = outputs_and_gradients(case, argument, far_apart(values, dimension))
        for one, other in zip(near, far):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dimension", [0, 1])
def test_in_place_more_than_2_31_apart(device, dimension):
    op = torch.ops.electra_kernels.cross_entropy_sample_
    values = torch.randn(3, 37, device=device).bfloat16()
    arguments = (torch.tensor([1, -100, 2], device=device), torch.rand(3, dtype=torch.float64).to(device))
    far = far_apart(values, dimension)
    results = [op(logits, *arguments, None, -100, "mean", 1.0, False) for logits in (values, far)]
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)
    for logits in (values, far):
        torch.ops.electra_kernels.scale_gradient_(logits, torch.tensor(3.0, device=device))
    torch.testing.assert_close(far, values)


# ---- more than 2^31 elements ------------------------------------------------------------------------------

V, TAIL = 30_522, 3
ROWS = LIMIT // V + TAIL + 1
# Bytes that a test takes. On a CPU they are those that are written; zeros that are only read take no memory there.
# On a GPU the zeros count too: logits and gradient in bfloat16 with labels, or ids, masked ids, the mask and Triton's
# int32 table of the maskable positions.
GRADIENT = {"cpu": 3 * 2 * LIMIT, "cuda": (2 + 2 + 1.1) * LIMIT}
IDS = {"cpu": 12 * LIMIT, "cuda": (8 + 8 + 1 + 4 + 0.5) * LIMIT}
BEST = {f"{name}:{levels[0]}" for name, levels in backends().levels.items()}


@pytest.fixture(params=[GRADIENT], ids=["gradient"])
def big(request, device):
    """The device, if it can hold this and does it in seconds."""
    if device.type == "cpu" and current_choice() not in BEST:
        pytest.skip("on a CPU for the best compiled kernels alone: the others take minutes, or 20 GB")
    skip_without(request.param, device)
    return device


def skip_without(need, device):
    """need: bytes for each type of device."""
    if device.type not in need:
        return
    free = _available_on_gpu() if device.type == "cuda" else _available()
    if free < need[device.type]:
        pytest.skip(f"it takes {need[device.type] / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free")


def _available_on_gpu():
    torch.cuda.empty_cache()  # what an earlier test has freed counts as free
    return torch.cuda.mem_get_info()[0]


def _available():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def _big_logits(device):
    """Zeros, and behind 2^31 elements rows that differ."""
    logits = zeros((ROWS, V), torch.bfloat16, device)
    logits[-TAIL:] = torch.randn(TAIL, V, device=device).bfloat16()
    targets = torch.arange(ROWS, device=device) % V
    return logits, targets, torch.rand(ROWS, dtype=torch.float64, device=device)


def test_more_than_2_31_logits_sampled(big):
    """Rows of zeros draw the token that their uniform names, the last ones what they draw alone."""
    logits, targets, uniforms = _big_logits(big)
    tokens, logsumexp = sample_tokens(logits, uniforms=uniforms)
    assert int((tokens - (uniforms * V).long())[:-TAIL].abs().max()) <= 1
    torch.testing.assert_close(logsumexp[:-TAIL], torch.full_like(logsumexp[:-TAIL], math.log(V)))
    alone, alone_logsumexp = sample_tokens(logits[-TAIL:], uniforms=uniforms[-TAIL:])
    assert torch.equal(tokens[-TAIL:], alone)
    torch.testing.assert_close(logsumexp[-TAIL:], alone_logsumexp)
    ids, positions = targets[None], torch.arange(ROWS, device=big)[None]
    replaced = sample_replacements(logits[None], ids, positions, ids, uniforms=uniforms[None])
    assert torch.equal(replaced.input_ids[0], tokens)


class _Result(torch.autograd.Function):
    """Memory as the result of an op, which may be overwritten, without a copy of it."""

    @staticmethod
    def forward(ctx, memory, requires_grad):
        return memory.detach()

    @staticmethod
    def backward(ctx, grad):
        return None, None


@pytest.mark.parametrize("inplace", [False, True])
def test_the_gradient_of_more_than_2_31_logits(big, inplace):
    def gradient(logits, targets, uniforms, inplace=False):
        x = _Result.apply(logits, torch.zeros((), requires_grad=True))
        result = cross_entropy_sample(
            x, targets, uniforms=uniforms, reduction="sum", inplace_backward=inplace
        )
        return result.tokens, torch.autograd.grad(result.loss, x)[0]

    rows = _big_logits(big)
    alone, last = gradient(*(value[-TAIL:].clone() for value in rows))
    tokens, whole = gradient(*rows, inplace)
    assert torch.equal(tokens[-TAIL:], alone)
    torch.testing.assert_close(whole[-TAIL:], last)
    expected = torch.full((V,), 1 / V, device=big).bfloat16()
    expected[7] -= 1
    torch.testing.assert_close(whole[7], expected)


def test_a_linear_head_with_more_than_2_31_logits(big):
    """Nothing of that size exists; the rows and tokens are counted over all chunks."""
    hidden = torch.zeros(ROWS, 1, device=big)
    hidden[-TAIL:] = torch.randn(TAIL, 1, device=big)
    weight = torch.randn(V, 1, device=big)
    targets, uniforms = torch.arange(ROWS, device=big) % V, torch.rand(ROWS, dtype=torch.float64, device=big)
    parts = [slice(None), slice(-TAIL, None)]
    leaves, results = [], []
    for part in parts:
        leaves.append(hidden[part].clone().requires_grad_())
        result = linear_cross_entropy_sample(
            leaves[-1], weight, None, targets[part], uniforms=uniforms[part], reduction="sum"
        )
        result.loss.backward()
        results.append(result)
    whole, alone = results
    assert torch.equal(whole.tokens[-TAIL:], alone.tokens)
    torch.testing.assert_close(leaves[0].grad[-TAIL:], leaves[1].grad)
    rest = alone.loss.double() + (ROWS - TAIL) * math.log(V)
    torch.testing.assert_close(whole.loss.double(), rest, rtol=1e-6, atol=0)


def test_more_than_2_31_tokens(big):
    logits = zeros((LIMIT + TAIL,), torch.bfloat16, big)
    labels = zeros((LIMIT + TAIL,), torch.bool, big)
    logits[-TAIL:], labels[-1] = torch.tensor([1.0, -2.0, 3.0], device=big), True
    leaf = logits.requires_grad_()
    loss = masked_bce_with_logits(leaf, labels, reduction="sum")
    loss.backward()
    alone = logits[-TAIL:].detach().requires_grad_()
    rest = masked_bce_with_logits(alone, labels[-TAIL:], reduction="sum")
    rest.backward()
    torch.testing.assert_close(leaf.grad[-TAIL:], alone.grad)
    torch.testing.assert_close(leaf.grad[:5].float(), torch.full((5,), 0.5, device=big))
    torch.testing.assert_close(loss.double(), LIMIT * math.log(2) + rest.double(), rtol=1e-6, atol=0)


def test_a_head_on_more_than_2_31_hidden_numbers(big):
    width = 256
    rows = LIMIT // width + TAIL
    hidden, labels = zeros((rows, width), torch.bfloat16, big), zeros((rows,), torch.bool, big)
    hidden[-TAIL:], labels[-1] = torch.randn(TAIL, width, device=big).bfloat16(), True
    weight = torch.randn(width, device=big, dtype=torch.bfloat16) / 16
    leaves, results = [], []
    for part in (slice(None), slice(-TAIL, None)):
        leaves.append([value.detach().requires_grad_() for value in (hidden[part], weight)])
        results.append(linear_masked_bce(*leaves[-1], None, labels[part], reduction="sum"))
        results[-1].loss.backward()
    (whole, whole_weight), (alone, alone_weight) = leaves
    torch.testing.assert_close(whole.grad[-TAIL:], alone.grad)
    torch.testing.assert_close(whole_weight.grad, alone_weight.grad)
    torch.testing.assert_close(results[0].logits[-TAIL:], results[1].logits)
    assert int(results[0].counts.sum()) == rows
    rest = results[1].loss.double() + (rows - TAIL) * math.log(2)
    torch.testing.assert_close(results[0].loss.double(), rest, rtol=1e-6, atol=0)


@pytest.mark.parametrize("big", [IDS], ids=["ids"], indirect=True)
def test_more_than_2_31_ids(big):
    """The ids that come out take 17 GB, and on a GPU those that go in as well: few machines have them."""
    length = 2**20 + 1
    ids = zeros((LIMIT // length + 1, length), torch.int64, big)
    positions = torch.arange(2, device=big).expand(len(ids), 2)
    tokens = torch.tensor([-1, 5], device=big).expand(len(ids), 2)
    replaced, is_replaced = replace_tokens(ids, positions, tokens)
    assert replaced[-1, :3].tolist() == [0, 5, 0]
    assert int(is_replaced.sum()) == len(ids)
    del replaced, is_replaced
    uniforms = torch.rand(len(ids), 2, 2, dtype=torch.float64, device=big)
    masked = mask_tokens(
        ids, ids == 0, mask_token_id=3, vocab_size=9, max_predictions=2, uniforms=uniforms, mask_fraction=1.0
    )
    last = [masked.input_ids[-1], masked.positions[-1]]
    assert last[0].nonzero().squeeze(-1).tolist() == sorted(last[1].tolist())
