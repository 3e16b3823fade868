"""The ops at the shapes of pre-training, called as the router calls them, each with the bytes that it must move."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from electra_kernels.triton import rtd_head
from electra_kernels.triton.rows import TILE
from electra_kernels.triton.tokens import SUMS

SMALL, LARGE = 30_522, 128_000  # vocabularies: BERT's, and one whose rows no block holds
# 64 rows are too few for a GPU, 1024 and 2560 are the masked positions of ELECTRA-Small's and -Base's batches.
ROWS = (64, 1024, 2560)
PRECISIONS = (torch.bfloat16, torch.float32)
_MASKED = 0.15
_IGNORED = -100


@dataclass(frozen=True)
class Case:
    """One call of an op.

    Attributes:
        arguments: of the op's schema.
        elements: what its kernels go over, by name, and how many of them there are; those that carry nearly all of its
            bytes come first.
        least: bytes of its inputs read once and its outputs written once; of a matrix product, none.
        again: bytes that Triton's kernels read a second time or hand on to each other, soon enough for a cache to have
            them; the CUDA kernels no more than that.
        streamed: the arguments of Triton's kernels that carry nearly all of them.
        cached: arguments that every program reads again, from the cache: not in ``least``.
    """

    op: str
    sizes: dict[str, int]
    dtype: torch.dtype
    arguments: tuple[object, ...]
    elements: Mapping[str, int]
    least: int
    again: int
    streamed: tuple[str, ...] = ("logits", "out")
    cached: tuple[str, ...] = ()

    def run(self, implementations: Mapping[str, Callable[..., object]]) -> object:
        """Call the op of a back end."""
        return implementations[self.op](*self.arguments)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def name(self) -> str:
        sizes = " ".join(f"{symbol}={size}" for symbol, size in self.sizes.items())
        return f"{self.op} {sizes} {self.dtype_name}"


@dataclass(frozen=True)
class _Inputs:
    """Random inputs; on the meta device their shapes alone."""

    device: str

    def floats(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=self.device)

    def ids(self, limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, device=self.device)

    def uniforms(self, *shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, device=self.device)

    def flags(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device) < 0.5

    def number(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.ones((), dtype=dtype, device=self.device)


def _sampling(inputs: _Inputs, rows: int, vocab_size: int, dtype: torch.dtype) -> Iterator[Case]:
    sizes, logits = {"N": rows, "V": vocab_size}, inputs.floats(rows, vocab_size, dtype=dtype)
    uniforms, row, exact = inputs.uniforms(rows), inputs.floats(rows), inputs.uniforms(rows)
    size, elements = logits.numel() * dtype.itemsize, {"logits": logits.numel(), "rows": rows}
    yield Case(
        "sample_tokens",
        sizes,
        dtype,
        (logits, None, uniforms, 1.0),
        elements,
        size + rows * (8 + 8 + 4 + 8),  # uniforms; tokens, logsumexp and its two parts
        _second_visit(rows, vocab_size, dtype),
    )
    yield Case(
        "sample_tokens_backward",
        sizes,
        dtype,
        (row, logits, exact),
        elements,
        2 * size + rows * (4 + 8),  # upstream and logsumexp
        0,
    )


def _second_visit(rows: int, vocab_size: int, dtype: torch.dtype, tiles: int = 1) -> int:
    """The tiles of a row that the draw reads again, and the maxima and sums of all, written and read."""
    width = TILE.value
    return rows * (tiles * width * dtype.itemsize + 2 * 2 * 4 * -(-vocab_size // width))


def _replacements(
    inputs: _Inputs, batch: int, length: int, vocab_size: int, dtype: torch.dtype
) -> Iterator[Case]:
    slots = round(_MASKED * length)
    sizes = {"B": batch, "T": length, "K": slots, "V": vocab_size}
    logits = inputs.floats(batch, slots, vocab_size, dtype=dtype)
    ids, positions = inputs.ids(vocab_size, batch, length), _positions(inputs, batch, length, slots)
    targets, uniforms = inputs.ids(vocab_size, batch, slots), inputs.uniforms(batch, slots)
    options = (1.0, True)
    # ids, their copy, the labels, and per slot position, token and the original
    replaced = batch * length * (8 + 8 + 1) + batch * slots * (8 + 8 + 8)
    yield Case(
        "sample_replacements",
        sizes,
        dtype,
        (logits, ids, positions, targets, uniforms, *options),
        {"logits": logits.numel(), "rows": batch * slots, "tokens": batch * length},
        # targets and uniforms; the tokens are written and read
        logits.numel() * dtype.itemsize + targets.numel() * (8 + 8 + 8) + replaced,
        # the tile that is drawn from and that of the banned token
        _second_visit(batch * slots, vocab_size, dtype, tiles=2) + batch * slots * (8 + 1),
        ("logits", "input_ids", "replaced"),
    )


def _positions(inputs: _Inputs, batch: int, length: int, slots: int) -> Tensor:
    return inputs.floats(batch, length).argsort(1)[:, :slots]


def _integers(inputs: _Inputs, batch: int, length: int, vocab_size: int) -> Iterator[Case]:
    slots = round(_MASKED * length)
    sizes = {"B": batch, "T": length, "K": slots}
    ids, flags = inputs.ids(vocab_size, batch, length), inputs.flags(batch, length)
    pairs, positions = inputs.uniforms(batch, slots, 2), _positions(inputs, batch, length, slots)
    tokens = inputs.ids(vocab_size, batch, slots)
    yield Case(
        "mask_tokens",
        sizes,
        ids.dtype,
        (ids, flags, pairs, 103, vocab_size, _MASKED, 0.85, 0.0),
        {"tokens": batch * length, "slots": batch * slots},
        # ids, flags, their copy; per slot two uniforms, position, target
        batch * length * (8 + 1 + 8) + batch * slots * (16 + 8 + 8),
        # the table of maskable tokens; per slot its entry, the original, the masked id, and the first uniform
        batch * length * 4 + batch * slots * (4 + 8 + 8 + 8),
        ("input_ids", "masked_ids"),
    )
    yield Case(
        "replace_tokens",
        sizes,
        ids.dtype,
        (ids, positions, tokens),
        {"tokens": batch * length},
        # ids, their copy, labels; per slot position, token, original
        batch * length * (8 + 8 + 1) + batch * slots * (8 + 8 + 8),
        batch * slots * (8 + 1),  # over the copy
        ("input_ids", "replaced"),
    )


def _cross_entropy(inputs: _Inputs, rows: int, vocab_size: int, dtype: torch.dtype) -> Iterator[Case]:
    sizes, logits = {"N": rows, "V": vocab_size}, inputs.floats(rows, vocab_size, dtype=dtype)
    targets, uniforms, exact = inputs.ids(vocab_size, rows), inputs.uniforms(rows), inputs.uniforms(rows)
    total, size = inputs.number(torch.float64), logits.numel() * dtype.itemsize
    options, elements = (_IGNORED, "mean", 1.0, False), {"logits": logits.numel(), "rows": rows}
    # target and uniform; loss, token, is_top1 and logsumexp
    per_row = rows * (8 + 8 + 4 + 8 + 1 + 8)
    yield Case(
        "cross_entropy_sample",
        sizes,
        dtype,
        (logits, targets, uniforms, None, *options),
        elements,
        size + per_row,
        _second_visit(rows, vocab_size, dtype),
    )
    yield Case(
        "cross_entropy_sample_backward",
        sizes,
        dtype,
        (
            inputs.number(),
            logits,
            targets,
            exact,
            total,
            _IGNORED,
        ),
        elements,
        2 * size + rows * (8 + 8),
        0,
    )
    yield Case(
        "cross_entropy_sample_",
        sizes,
        dtype,
        (logits.clone(), targets, uniforms, None, *options),
        elements,
        2 * size + per_row,
        size + _second_visit(rows, vocab_size, dtype),  # the whole row, for its gradient
    )
    yield Case(
        "scale_gradient_",
        sizes,
        dtype,
        (logits, 2 * inputs.number()),
        elements,
        2 * size,
        0,
        ("gradient",),
    )


def _linear_head(
    inputs: _Inputs, rows: int, vocab_size: int, width: int, dtype: torch.dtype
) -> Iterator[Case]:
    """Between the matrix products, which are not counted: the row kernel turns logits into their gradient."""
    hidden, weight = inputs.floats(rows, width, dtype=dtype), inputs.floats(vocab_size, width, dtype=dtype)
    bias, targets, uniforms = inputs.floats(vocab_size), inputs.ids(vocab_size, rows), inputs.uniforms(rows)
    size = rows * vocab_size * dtype.itemsize
    arguments = (hidden, weight, bias, targets, uniforms, None, _IGNORED, "mean", 1.0, False, [True] * 3)
    yield Case(
        "linear_cross_entropy_sample",
        {"N": rows, "V": vocab_size, "E": width},
        dtype,
        arguments,
        {"logits": rows * vocab_size, "rows": rows},
        2 * size + rows * (8 + 8 + 4 + 8 + 1 + 8),
        size + _second_visit(rows, vocab_size, dtype),
        cached=("bias",),
    )


def _bce(inputs: _Inputs, batch: int, length: int, dtype: torch.dtype) -> Iterator[Case]:
    logits, labels = inputs.floats(batch, length, dtype=dtype), inputs.flags(batch, length)
    mask, total = torch.ones_like(logits, dtype=torch.int64), inputs.number(torch.float64)
    sizes, count = {"B": batch, "T": length}, batch * length
    yield Case(
        "masked_bce_with_logits",
        sizes,
        dtype,
        (logits, labels, mask, None, None, 0.0, "mean"),
        {"tokens": count},
        count * (dtype.itemsize + 1 + 8),  # logit, label, mask
        2 * -(-count // 1024) * SUMS * 8,  # of each block of tokens, written and read
        ("logits", "mask"),
    )
    yield Case(
        "masked_bce_with_logits_backward",
        sizes,
        dtype,
        (inputs.number(), logits, labels, mask, None, total, 0.0),
        {"tokens": count},
        count * (2 * dtype.itemsize + 1 + 8),
        0,
        ("logits", "mask", "gradient"),
        cached=("grad_loss", "denominator"),
    )


def _rtd_head(inputs: _Inputs, batch: int, length: int, width: int, dtype: torch.dtype) -> Iterator[Case]:
    hidden, weight = inputs.floats(batch, length, width, dtype=dtype), inputs.floats(width, dtype=dtype)
    labels, logits = inputs.flags(batch, length), inputs.floats(batch, length)
    mask, total = torch.ones_like(logits, dtype=torch.int64), inputs.number(torch.float64)
    bias, sums = inputs.number(dtype), (inputs.floats(width), inputs.number())
    sizes, count = {"B": batch, "T": length, "H": width}, batch * length
    per_row = 1 + 8 + 4  # label, mask, logit
    terms, split = (labels, mask, None), rtd_head._split(hidden)
    yield Case(
        "linear_masked_bce",
        sizes,
        dtype,
        (hidden, weight, bias, *terms, None, 0.0, "mean", True),
        {"hidden": hidden.numel(), "tokens": count},
        count * (width * dtype.itemsize + per_row) + 4 * width,  # and the sums for the weight's gradient
        # the loss visits the tokens once more; these sums and those of the loss of all programs, written and read
        count * per_row + 2 * split.programs * (split.pitch * 4 + SUMS * 8),
        ("hidden",),
        cached=("weight", "bias"),
    )
    yield Case(
        "linear_masked_bce_backward",
        sizes,
        dtype,
        (
            inputs.number(),
            hidden,
            weight,
            logits,
            *terms,
            total,
            *sums,
            0.0,
            "mean",
        ),
        {"hidden": hidden.numel(), "tokens": count},
        count * (width * dtype.itemsize + per_row) + width * (4 + dtype.itemsize),
        0,
        ("grad_hidden",),
        cached=("weight", "grad_loss", "denominator"),
    )


def real_cases() -> Iterator[Case]:
    """On the meta device: nothing is computed."""
    inputs = _Inputs("meta")
    for dtype in PRECISIONS:
        for rows, vocab_size in [*((n, SMALL) for n in ROWS), (ROWS[1], LARGE)]:
            yield from _sampling(inputs, rows, vocab_size, dtype)
            yield from _cross_entropy(inputs, rows, vocab_size, dtype)
        for vocab_size in (SMALL, LARGE):
            yield from _linear_head(inputs, ROWS[2], vocab_size, 128, dtype)
        yield from _replacements(inputs, 128, 128, SMALL, dtype)
        for batch in (256, 1024):
            yield from _bce(inputs, batch, 512, dtype)
        for width in (256, 768):
            yield from _rtd_head(inputs, 256, 512, width, dtype)
    for length in (128, 512):
        yield from _integers(inputs, 128, length, SMALL)


def few_rows() -> Iterator[Case]:
    """The same widths with the fewest rows that take the same kernels on a GPU of one multiprocessor, to be run."""
    inputs, dtype = _Inputs("cpu"), torch.bfloat16
    for rows, vocab_size in [(1, SMALL), (2, SMALL), (2, LARGE)]:
        yield from _sampling(inputs, rows, vocab_size, dtype)
        yield from _cross_entropy(inputs, rows, vocab_size, dtype)
    for vocab_size in (SMALL, LARGE):
        yield from _linear_head(inputs, 2, vocab_size, 8, dtype)
    yield from _replacements(inputs, 1, 16, SMALL, dtype)
    yield from _bce(inputs, 2, 1024, dtype)
    for width in (256, 768):
        yield from _rtd_head(inputs, 1, 128, width, dtype)
    for length in (128, 512):
        yield from _integers(inputs, 1, length, SMALL)
