"""Device functions that the two losses per token share (bce.py, rtd_head.py).

They read tensors of any strides and types as they are, compute the loss and the slope (dloss/dx) of a token, and sum
over tokens with the same bits on every run. For a token with logit x, smoothed label y, positive weight p and mask
weight m:

    loss = m (p y softplus(-x) + (1 - y) softplus(x))    slope = m ((1 - y) sigmoid(x) - p y sigmoid(-x))

Both need one exponential, exp(-|x|). Six numbers are summed over all tokens: the loss, the mask weights and the four
confusion counts. Each program writes one partial sum of each, and a second kernel adds these up in a fixed order,
without atomics.
"""

import triton
import triton.language as tl
from torch import Tensor

from electra_kernels.triton.reduce import reciprocal_or_zero

# Most programs of a kernel that sums: one program of the next kernel reads all their partial sums at once.
PROGRAMS = 1024
# Adjacent tokens of a thread that are added up in float32 before float64 takes their sum.
NEIGHBOURS = tl.constexpr(8)
# Loss, mask weights, true positives, false positives, false negatives, true negatives.
SUMS = 6


def collapse(
    shape: tuple[int, ...], *tensors: Tensor | None
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Merge the dimensions of ``shape`` that are contiguous to each other in all tensors.

    Tensors without gaps have one dimension left. Only as many leading dimensions of a tensor count as ``shape`` has.

    Returns:
        The sizes of the merged dimensions, and for each tensor its strides in them: 0 where the tensor broadcasts or is
        None. The first size is replaced by 1: no offset depends on it, so no kernel should be compiled for it.
    """
    sizes: list[int] = []
    merged_strides: list[list[int]] = []  # For each merged dimension, the strides of all tensors.
    strides = [0] * len(tensors)
    for dimension, size in enumerate(shape):
        strides = [0 if tensor is None else tensor.stride(dimension) for tensor in tensors]
        if size == 1:
            continue
        if merged_strides and merged_strides[-1] == [stride * size for stride in strides]:
            sizes[-1] *= size
            merged_strides[-1] = strides
        else:
            sizes.append(size)
            merged_strides.append(strides)
    if not sizes or 0 in shape:
        # One token or none: any stride is right. The last dimension's stride avoids one more compiled variant.
        return (1,), [(stride,) for stride in strides]
    return (1, *sizes[1:]), list(zip(*merged_strides))


@triton.jit
def offsets_of(index, sizes, strides):
    """Offsets in elements, int64, of the elements with row-major numbers ``index``. Sizes and strides: `collapse`."""
    offsets = tl.zeros_like(index).to(tl.int64)
    for dimension in tl.static_range(len(sizes) - 1, 0, -1):
        offsets += (index % sizes[dimension]).to(tl.int64) * strides[dimension]
        index = index // sizes[dimension]
    return offsets + index.to(tl.int64) * strides[0]


@triton.jit
def load_terms(terms, label_smoothing, token, inside, sizes, strides):
    """Read the terms of a block of tokens: all that its loss depends on besides the logits.

    Args:
        terms: pointers to labels, mask and pos_weight, of any types; the last two may be None.
        label_smoothing: in [0, 1].
        token: numbers of the tokens.
        inside: true where the token exists.
        sizes: as `collapse` gives them.
        strides: those of labels, mask and pos_weight.

    Returns:
        Label, mask weight (0: not counted), and the factors of softplus(-x) and of softplus(x), all float32.
    """
    labels, mask, pos_weight = terms
    label = tl.load(labels + offsets_of(token, sizes, strides[0]), mask=inside, other=0)
    weight = tl.where(inside, 1.0, 0.0)
    if mask is not None:
        weight = tl.load(mask + offsets_of(token, sizes, strides[1]), mask=inside, other=0)
        # A floating-point mask is a weight. A mask of another type counts as 1 where it is not 0.
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
def exp_neg_abs(x):
    """exp(-|x|) with an error of at most 3 ulp down to the smallest denormal number; NaN stays NaN.

    The hardware's exponential alone has an error of |x| ulp. So the power of two nearest to the result is taken out
    first, exactly: its exponent has 8 bits, the first part of ln 2 has 9, and a remainder of at most ln 2 / 2 is left.
    """
    magnitude = tl.abs(x)
    magnitude = tl.where(magnitude < 110.0, magnitude, 110.0)
    halvings = (magnitude * 1.4426950408889634 + 0.5).to(tl.int32)
    exponent = halvings.to(tl.float32)
    remainder = (exponent * 0.693359375 - magnitude) - exponent * 2.12194440e-4
    # Two factors, since 2^-halvings may be below the smallest normal number.
    first = halvings // 2
    first_power = ((127 - first) << 23).to(tl.float32, bitcast=True)
    second_power = ((127 - halvings + first) << 23).to(tl.float32, bitcast=True)
    return tl.where(x == x, tl.exp(remainder) * first_power * second_power, x)


@triton.jit
def log_one_plus(x):
    """log(1 + x) for x in [0, 1], as 2 artanh(s) with s = x / (2 + x): the polynomial in s² of csrc/cpu/tokens.h."""
    s = x / (2.0 + x)
    square = s * s
    p = 2.4289557338e-1 * square + 2.1430741251e-1
    p = p * square + 2.8616595268e-1
    p = p * square + 3.9998888969e-1
    p = p * square + 6.6666674614e-1
    return s * square * p + (s + s)


@triton.jit
def token_losses(x, decay, weight, positive, negative):
    """Loss of each token; decay is exp(-|x|), the rest comes from `load_terms`.

    A factor of 0 beats an infinite softplus, a NaN logit beats both, and a mask weight of 0 beats everything.
    """
    log_term = log_one_plus(decay)
    losses = tl.where(positive != 0, positive * (tl.maximum(-x, 0.0) + log_term), 0.0)
    losses += tl.where(negative != 0, negative * (tl.maximum(x, 0.0) + log_term), 0.0)
    losses = tl.where(x == x, losses, x)
    return tl.where(weight != 0, losses * weight, 0.0)


@triton.jit
def token_slopes(x, decay, weight, positive, negative):
    """dloss/dx of each token, before upstream gradient and denominator; arguments as in `token_losses`."""
    larger = 1.0 / (1.0 + decay)  # sigmoid(|x|)
    smaller = decay * larger  # sigmoid(-|x|)
    slopes = negative * tl.where(x < 0, smaller, larger) - positive * tl.where(x < 0, larger, smaller)
    return tl.where(weight != 0, slopes * weight, 0.0)


@triton.jit
def upstream_scale(grad_loss, reciprocal):
    """Upstream gradient / denominator, computed in float64 and rounded once."""
    return (grad_loss.to(tl.float64) * reciprocal).to(tl.float32)


@triton.jit
def zero_sums(LANES: tl.constexpr):
    """The six sums [LANES] of `SUMS`, at 0. A lane adds up every LANES-th group of tokens of its program.

    Loss and weights are float64: of 2^31 tokens a lane has thousands, and float32 would lose digits at each of them.
    """
    number = tl.zeros([LANES], tl.float64)
    count = tl.zeros([LANES], tl.int32)
    return number, number, count, count, count, count


@triton.jit
def _sum_by_lane(x, lanes):
    """Add up adjacent tokens, which one thread has loaded, so that a block of tokens becomes one number per lane."""
    EACH: tl.constexpr = x.shape[0] // lanes.shape[0]
    return x if EACH == 1 else tl.sum(tl.reshape(x, [lanes.shape[0], EACH]), 1)


@triton.jit
def add_tokens(sums, losses, weight, label, x):
    """Add a block of tokens to the sums. A block has one token per lane, or a fixed multiple of that."""
    is_counted = weight != 0
    is_positive = is_counted & (label > 0.5)
    is_negative = is_counted & (label <= 0.5)
    return (
        sums[0] + _sum_by_lane(losses, sums[0]).to(tl.float64),
        sums[1] + _sum_by_lane(weight, sums[1]).to(tl.float64),
        sums[2] + _sum_by_lane((is_positive & (x > 0)).to(tl.int32), sums[2]),
        sums[3] + _sum_by_lane((is_negative & (x > 0)).to(tl.int32), sums[3]),
        sums[4] + _sum_by_lane((is_positive & ~(x > 0)).to(tl.int32), sums[4]),
        sums[5] + _sum_by_lane((is_negative & ~(x > 0)).to(tl.int32), sums[5]),
    )


@triton.jit
def store_sums(sums, partial_sums):
    """Store this program's sums in its column of ``partial_sums`` [SUMS, programs]; float64 holds counts exactly."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    for index in tl.static_range(len(sums)):
        tl.store(partial_sums + index * programs + program, tl.sum(sums[index]).to(tl.float64))


@triton.jit
def join_sums(
    partial_sums,  # [SUMS, programs] float64
    normalizer,  # [] float64, or None
    loss,  # [] float32, or None for reduction "none", whose losses are already written
    counts,  # [4] int64
    denominator,  # [] float64
    programs,  # Programs that wrote partial_sums.
    IS_MEAN: tl.constexpr,  # Whether the denominator is the sum of mask weights if there is no normalizer.
    PROGRAMS: tl.constexpr,  # A power of two, at least ``programs``.
):
    """Write the outputs that are sums over all tokens. One program calls this."""
    program = tl.arange(0, PROGRAMS)
    inside = program < programs
    for cell in tl.static_range(4):
        column = tl.load(partial_sums + (cell + 2) * programs + program, mask=inside, other=0)
        tl.store(counts + cell, tl.sum(column).to(tl.int64))
    divisor = tl.full((), 1.0, tl.float64)
    if normalizer is not None:
        divisor = tl.load(normalizer)
    elif IS_MEAN:
        divisor = tl.sum(tl.load(partial_sums + programs + program, mask=inside, other=0))
    tl.store(denominator, divisor)
    if loss is not None:
        total = tl.sum(tl.load(partial_sums + program, mask=inside, other=0))
        tl.store(loss, (total * reciprocal_or_zero(divisor)).to(tl.float32))
