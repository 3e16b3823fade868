"""What the two losses per token share: tensors of any strides and types read as they are, the loss and slope of a
token, and sums that give the same bits on every run.

With the smoothed label y, the positive weight p and the mask weight m of a token with logit x:

    loss = m (p y softplus(-x) + (1 - y) softplus(x))    d/dx = m ((1 - y) sigmoid(x) - p y sigmoid(-x))

Both come from the one exponential exp(-|x|). What is summed over all tokens (the loss, the mask weights, the four
confusion counts) goes through one number per program, which a second kernel adds up in their order: no atomics.
"""

import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1024  # at most, of a kernel that sums; one program of the next kernel reads all their sums at once
NEIGHBOURS = tl.constexpr(8)  # tokens of a thread that are added up in float32
SUMS = 6  # loss, mask weights, true positives, false positives, false negatives, true negatives


def collapse(
    shape: tuple[int, ...], *tensors: Tensor | None
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Sizes of the fewest dimensions that walk through ``shape`` in its order, and the strides of each tensor in them.

    Dimensions that continue each other in all tensors are one, so tensors without gaps have one in all; a
    tensor that broadcasts has stride 0, and one that is None has zeros. Only the leading dimensions that
    ``shape`` names are looked at. The first size is given as 1: no offset depends on it, so no kernel should be
    compiled for it.
    """
    sizes: list[int] = []
    columns: list[list[int]] = []
    strides = [0] * len(tensors)
    for dimension, size in enumerate(shape):
        strides = [0 if tensor is None else tensor.stride(dimension) for tensor in tensors]
        if size == 1:
            continue
        if columns and columns[-1] == [stride * size for stride in strides]:
            sizes[-1] *= size
            columns[-1] = strides
        else:
            sizes.append(size)
            columns.append(strides)
    if not sizes or 0 in shape:
        # One token, or none: any stride is right, and with that of the last dimension it is no case of its own.
        return (1,), [(stride,) for stride in strides]
    return (1, *sizes[1:]), list(zip(*columns))


@triton.jit
def offsets_of(index, sizes, strides):
    """Elements from the pointer of a tensor to its element number ``index``, in the order of its dimensions."""
    offsets = tl.zeros_like(index).to(tl.int64)
    for dimension in tl.static_range(len(sizes) - 1, 0, -1):
        offsets += (index % sizes[dimension]).to(tl.int64) * strides[dimension]
        index = index // sizes[dimension]
    return offsets + index.to(tl.int64) * strides[0]


@triton.jit
def load_terms(terms, label_smoothing, token, inside, sizes, strides):
    """Label and weight of each token (0 = not counted), and what softplus(-x) and softplus(x) are multiplied with.

    ``terms``: labels, mask and pos_weight, the last two None if there are none; ``strides``: theirs.
    """
    labels, mask, pos_weight = terms
    label = tl.load(labels + offsets_of(token, sizes, strides[0]), mask=inside, other=0)
    weight = tl.where(inside, 1.0, 0.0)
    if mask is not None:
        weight = tl.load(mask + offsets_of(token, sizes, strides[1]), mask=inside, other=0)
        # A float is a weight; of anything else only whether it is set counts.
        if weight.dtype.is_floating():
            weight = weight.to(tl.float32)
        else:
            weight = tl.where(weight != 0, 1.0, 0.0)
    if not label.dtype.is_floating():
        weight = tl.where(label.to(tl.int32) == -100, 0.0, weight)
    label = tl.where(weight != 0, label.to(tl.float32), 0.0)
    smoothed = label * (1 - label_smoothing) + 0.5 * label_smoothing
    positive = smoothed
    if pos_weight is not None:
        weights = tl.load(pos_weight + offsets_of(token, sizes, strides[2]), mask=inside, other=0)
        positive *= weights.to(tl.float32)
    return label, weight, positive, 1.0 - smoothed


@triton.jit
def decay_of(x):
    """exp(-|x|), at most 3 ulp off down to the smallest number; NaN stays.

    The hardware's exponential alone is off by |x| ulps, so whole powers of two are taken out exactly first: their
    number has 8 bits and the first part of ln 2 has 9, and what is left is at most ln 2 / 2.
    """
    magnitude = tl.abs(x)
    magnitude = tl.where(magnitude < 110.0, magnitude, 110.0)
    halvings = (magnitude * 1.4426950408889634 + 0.5).to(tl.int32)
    number = halvings.to(tl.float32)
    rest = (number * 0.693359375 - magnitude) - number * 2.12194440e-4
    # In two steps, since 2 to the power of minus halvings may be below the smallest normal number.
    first = halvings // 2
    half = ((127 - first) << 23).to(tl.float32, bitcast=True)
    other_half = ((127 - halvings + first) << 23).to(tl.float32, bitcast=True)
    return tl.where(x == x, tl.exp(rest) * half * other_half, x)


@triton.jit
def log_one_plus(x):
    """log(1 + x) for x in [0, 1] = 2 artanh(s), s = x / (2 + x): a polynomial in s² as in csrc/cpu/tokens.h."""
    s = x / (2.0 + x)
    square = s * s
    p = 2.4289557338e-1 * square + 2.1430741251e-1
    p = p * square + 2.8616595268e-1
    p = p * square + 3.9998888969e-1
    p = p * square + 6.6666674614e-1
    return s * square * p + (s + s)


@triton.jit
def token_losses(x, decay, weight, positive, negative):
    """A factor of 0 wins over an infinite softplus, NaN over both, and a mask that is not set over all."""
    rest = log_one_plus(decay)
    losses = tl.where(positive != 0, positive * (tl.maximum(-x, 0.0) + rest), 0.0)
    losses += tl.where(negative != 0, negative * (tl.maximum(x, 0.0) + rest), 0.0)
    losses = tl.where(x == x, losses, x)
    return tl.where(weight != 0, losses * weight, 0.0)


@triton.jit
def token_slopes(x, decay, weight, positive, negative):
    high = 1.0 / (1.0 + decay)
    low = decay * high
    slopes = negative * tl.where(x < 0, low, high) - positive * tl.where(x < 0, high, low)
    return tl.where(weight != 0, slopes * weight, 0.0)


@triton.jit
def reciprocal_or_zero(denominator):
    """1 / denominator, and 0 where nothing was counted: loss and gradient are then 0, never NaN."""
    return tl.where(denominator != 0, 1.0 / tl.where(denominator != 0, denominator, 1.0), 0.0)


@triton.jit
def upstream_scale(grad_loss, reciprocal):
    """The upstream gradient over the denominator, rounded once."""
    return (grad_loss.to(tl.float64) * reciprocal).to(tl.float32)


@triton.jit
def no_sums(LANES: tl.constexpr):
    """Sums over the tokens of each lane: losses, mask weights, and the four cells of the confusion matrix.

    In float64: a lane has thousands of tokens where there are 2^31, and float32 would lose digits at each.
    """
    number = tl.zeros([LANES], tl.float64)
    count = tl.zeros([LANES], tl.int32)
    return number, number, count, count, count, count


@triton.jit
def _by_lane(x, lanes):
    """A block of tokens as one number for each lane: neighbours, which a thread has loaded together, are added up."""
    EACH: tl.constexpr = x.shape[0] // lanes.shape[0]
    return x if EACH == 1 else tl.sum(tl.reshape(x, [lanes.shape[0], EACH]), 1)


@triton.jit
def add_tokens(sums, losses, weight, label, x):
    """``sums`` are of lanes, the rest is of a block of tokens: one for each lane, or a few."""
    is_counted = weight != 0
    is_positive = is_counted & (label > 0.5)
    is_negative = is_counted & (label <= 0.5)
    return (
        sums[0] + _by_lane(losses, sums[0]).to(tl.float64),
        sums[1] + _by_lane(weight, sums[1]).to(tl.float64),
        sums[2] + _by_lane((is_positive & (x > 0)).to(tl.int32), sums[2]),
        sums[3] + _by_lane((is_negative & (x > 0)).to(tl.int32), sums[3]),
        sums[4] + _by_lane((is_positive & ~(x > 0)).to(tl.int32), sums[4]),
        sums[5] + _by_lane((is_negative & ~(x > 0)).to(tl.int32), sums[5]),
    )


@triton.jit
def store_sums(sums, partials):
    """Into column ``program`` of partials [SUMS, programs] float64, in which counts are exact too."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    for row in tl.static_range(len(sums)):
        tl.store(partials + row * programs + program, tl.sum(sums[row]).to(tl.float64))


@triton.jit
def join_sums(
    partials,  # [SUMS, programs]
    normalizer,  # [] float64, or None
    loss,  # [], or None for reduction "none", whose losses are written already
    counts,  # [4]
    denominator,  # []
    programs,
    IS_MEAN: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """By one program: the outputs that are sums over all tokens."""
    program = tl.arange(0, PROGRAMS)
    inside = program < programs
    for cell in tl.static_range(4):
        column = tl.load(partials + (cell + 2) * programs + program, mask=inside, other=0)
        tl.store(counts + cell, tl.sum(column).to(tl.int64))
    divisor = tl.full((), 1.0, tl.float64)
    if normalizer is not None:
        divisor = tl.load(normalizer)
    elif IS_MEAN:
        divisor = tl.sum(tl.load(partials + programs + program, mask=inside, other=0))
    tl.store(denominator, divisor)
    if loss is not None:
        total = tl.sum(tl.load(partials + program, mask=inside, other=0))
        tl.store(loss, (total * reciprocal_or_zero(divisor)).to(tl.float32))
