"""Element offsets and counts beyond 32 bits."""

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
    """Zeros. On a CPU, the system provides a page of memory only when it is first written to."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).reshape(shape)


def far_apart(values, dimension):
    """The same values; along ``dimension`` the last lies more than 2^31 elements behind the first."""
    strides = list(torch.empty(values.shape, device="meta").stride())
    strides[dimension] = LIMIT // (values.shape[dimension] - 1) + 1
    elements = 1 + sum((size - 1) * stride for size, stride in zip(values.shape, strides))
    view = zeros((elements,), values.dtype, values.device).as_strided(values.shape, strides)
    return view.copy_(values)


# All but the one tensor that has a single element.
SPREAD = [
    (name, argument)
    for name, argument in tensor_arguments()
    if (name, argument) != ("linear_masked_bce", "bias")
]


@pytest.mark.parametrize(("name", "argument"), SPREAD)
def test_elements_more_than_2_31_apart_in_memory(device, name, argument):
    case = build(name, device)
    values = case.tensors[argument]
    # A CPU needs memory for the few touched pages only.
    skip_without_memory({"cuda": 1.1 * LIMIT * values.element_size()}, device)
    near = case.outputs_and_gradients()
    for dimension in {0, values.dim() - 1}:
        # No variable keeps the spread tensor alive while the next dimension is tried.
        torch.testing.assert_close(
            near, case.outputs_and_gradients(**{argument: far_apart(values, dimension)})
        )


@pytest.mark.parametrize("dimension", [0, 1])
def test_the_gradient_in_place_of_elements_more_than_2_31_apart(device, dimension):
    op = torch.ops.electra_kernels.cross_entropy_sample_
    values = torch.randn(3, 37, device=device).bfloat16()
    arguments = (torch.tensor([1, -100, 2], device=device), torch.rand(3, dtype=torch.float64).to(device))
    far = far_apart(values, dimension)
    results = [op(logits, *arguments, None, -100, "mean", 0.0, 1.0, False) for logits in (values, far)]
    torch.testing.assert_close(*results)
    for logits in (values, far):
        torch.ops.electra_kernels.scale_gradient_(logits, torch.tensor(3.0, device=device))
    torch.testing.assert_close(far, values)


# The tests below have tensors of more than 2^31 elements.

V, TAIL = 30_522, 3
ROWS = LIMIT // V + TAIL + 1
# Bytes that a test needs. On a CPU only written memory counts, as zeros that are only read take none. On a GPU all
# counts: logits and gradient in bfloat16 with labels; or ids, masked ids, the mask and Triton's int32 table of
# maskable positions.
GRADIENT = {"cpu": 3 * 2 * LIMIT, "cuda": (2 + 2 + 1.1) * LIMIT}
IDS = {"cpu": 12 * LIMIT, "cuda": (8 + 8 + 1 + 4 + 0.5) * LIMIT}
BEST_LEVELS = {f"{name}:{levels[0]}" for name, levels in backends().levels.items()}


@pytest.fixture(params=[GRADIENT], ids=["gradient"])
def big(request, device):
    """The device, if it has enough memory and takes seconds rather than minutes."""
    if device.type == "cpu" and current_choice() not in BEST_LEVELS:
        pytest.skip("on a CPU only the best compiled kernels run this: the others take minutes or 20 GB")
    skip_without_memory(request.param, device)
    return device


def skip_without_memory(need, device):
    """Skips the test if less than ``need[device.type]`` bytes are free."""
    if device.type not in need:
        return
    free = _free_on_gpu() if device.type == "cuda" else _free_on_cpu()
    if free < need[device.type]:
        pytest.skip(f"needs {need[device.type] / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def _free_on_gpu():
    torch.cuda.empty_cache()  # memory that earlier tests freed counts as free
    return torch.cuda.mem_get_info()[0]


def _free_on_cpu():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def _big_logits(device):
    """Logits, targets and uniforms: rows of zeros, then TAIL random rows behind 2^31 elements."""
    logits = zeros((ROWS, V), torch.bfloat16, device)
    logits[-TAIL:] = torch.randn(TAIL, V, device=device).bfloat16()
    targets = torch.arange(ROWS, device=device) % V
    return logits, targets, torch.rand(ROWS, dtype=torch.float64, device=device)


def test_sampling_from_more_than_2_31_logits(big):
    """A row of zeros draws the token that its uniform names. The last rows draw what they draw by themselves."""
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
    """Presents memory as the result of an op, which may be overwritten, without copying it."""

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


def test_the_linear_head_with_more_than_2_31_logits(big):
    """No tensor of that size exists; rows and tokens are counted over all chunks."""
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


def test_the_loss_of_more_than_2_31_tokens(big):
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


def test_the_discriminator_head_with_more_than_2_31_hidden_numbers(big):
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
def test_masking_and_replacing_more_than_2_31_ids(big):
    """The output takes 17 GB, and on a GPU the input as well, so few machines run this."""
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
    changed = masked.input_ids[-1].nonzero().squeeze(-1)
    assert changed.tolist() == sorted(masked.positions[-1].tolist())
