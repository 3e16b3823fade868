"""Calls of every op at pre-training shapes, as the router makes them, on the meta device: nothing is computed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL, LARGE = 30_522, 128_000  # vocabularies: BERT's, and one with rows too large for one block
# 64 rows are too few to fill a GPU; 1024 and 2560 are the masked positions of ELECTRA-Small's and -Base's batches.
ROWS = (64, 1024, 2560)
PRECISIONS = (torch.bfloat16, torch.float32)
_MASKED = 0.15
_IGNORED = -100


@dataclass(frozen=True)
class Case:
    """One call of an op.

    Attributes:
        op: its name.
        sizes: symbol → number, as N, V, E.
        dtype: dtype of the floating-point inputs, or else of the ids.
        arguments: in the order of the op's schema.
        streamed: names of the Triton kernels' arguments that carry nearly all of the bytes; their loads and stores
            should be as wide as their layout allows.
    """

    op: str
    sizes: dict[str, int]
    dtype: torch.dtype
    arguments: tuple[object, ...]
    streamed: tuple[str, ...] = ("logits", "out")

    def run(self, implementations: Mapping[str, Callable[..., object]]) -> object:
        """Call the op of a back end."""
        return implementations[self.op](*self.arguments)

    @property
    def name(self) -> str:
        sizes = " ".join(f"{symbol}={size}" for symbol, size in self.sizes.items())
        return f"{self.op} {sizes} {str(self.dtype).removeprefix('torch.')}"


def _floats(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _ids(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int64, device="meta")


def _uniforms(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="meta")


def _flags(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bool, device="meta")


def pretraining_cases() -> Iterator[Case]:
    for dtype in PRECISIONS:
        for rows, vocab_size in [*((n, SMALL) for n in ROWS), (ROWS[1], LARGE)]:
            yield from _sampling(rows, vocab_size, dtype)
            yield from _cross_entropy(rows, vocab_size, dtype)
        for vocab_size in (SMALL, LARGE):
            yield _linear_mlm_head(ROWS[2], vocab_size, 128, dtype)
        yield _replacements(128, 128, SMALL, dtype)
        for batch in (256, 1024):
            yield from _bce(batch, 512, dtype)
        for width in (256, 768):
            yield from _rtd_head(256, 512, width, dtype)
    for length in (128, 512):
        yield from _integers(128, length, SMALL)


def _sampling(rows: int, vocab_size: int, dtype: torch.dtype) -> Iterator[Case]:
    sizes, logits = {"N": rows, "V": vocab_size}, _floats(rows, vocab_size, dtype=dtype)
    yield Case("sample_tokens", sizes, dtype, (logits, None, _uniforms(rows), 1.0))
    yield Case("sample_tokens_backward", sizes, dtype, (_floats(rows), logits, _floats(rows, 2)))


def _replacements(batch: int, length: int, vocab_size: int, dtype: torch.dtype) -> Case:
    slots = round(_MASKED * length)
    return Case(
        "sample_replacements",
        {"B": batch, "T": length, "K": slots, "V": vocab_size},
        dtype,
        (
            _floats(batch, slots, vocab_size, dtype=dtype),
            _ids(batch, length),
            _positions(batch, length, slots),
            _ids(batch, slots),
            _uniforms(batch, slots),
            1.0,
            True,
        ),
        ("logits", "input_ids", "replaced"),
    )


def _positions(batch: int, length: int, slots: int) -> Tensor:
    """The stride between rows is the length: a slice, not a matrix of its own."""
    return _ids(batch, length)[:, :slots]


def _integers(batch: int, length: int, vocab_size: int) -> Iterator[Case]:
    slots = round(_MASKED * length)
    sizes, ids = {"B": batch, "T": length, "K": slots}, _ids(batch, length)
    pairs = _uniforms(batch, slots, 2)
    yield Case(
        "mask_tokens",
        sizes,
        ids.dtype,
        (ids, _flags(batch, length), pairs, 103, vocab_size, _MASKED, 0.85, 0.0),
        ("input_ids", "masked_ids"),
    )
    yield Case(
        "replace_tokens",
        sizes,
        ids.dtype,
        (ids, _positions(batch, length, slots), _ids(batch, slots)),
        ("input_ids", "replaced"),
    )


def _cross_entropy(rows: int, vocab_size: int, dtype: torch.dtype) -> Iterator[Case]:
    sizes, logits = {"N": rows, "V": vocab_size}, _floats(rows, vocab_size, dtype=dtype)
    targets, uniforms, total = _ids(rows), _uniforms(rows), _floats(dtype=torch.float64)
    options = (_IGNORED, "mean", 0.0, 1.0, False)
    yield Case("cross_entropy_sample", sizes, dtype, (logits, targets, uniforms, None, *options))
    yield Case(
        "cross_entropy_sample_backward",
        sizes,
        dtype,
        (_floats(), None, logits, targets, _floats(rows, 2), total, _IGNORED, 0.0),
    )
    yield Case("cross_entropy_sample_", sizes, dtype, (logits, targets, uniforms, None, *options))
    yield Case("scale_gradient_", sizes, dtype, (logits, _floats()), ("gradient",))


def _linear_mlm_head(rows: int, vocab_size: int, width: int, dtype: torch.dtype) -> Case:
    hidden, weight = _floats(rows, width, dtype=dtype), _floats(vocab_size, width, dtype=dtype)
    options = (None, _IGNORED, "mean", 0.0, 1.0, False, [True] * 3)
    return Case(
        "linear_cross_entropy_sample",
        {"N": rows, "V": vocab_size, "E": width},
        dtype,
        (hidden, weight, _floats(vocab_size), _ids(rows), _uniforms(rows), *options),
    )


def _bce(batch: int, length: int, dtype: torch.dtype) -> Iterator[Case]:
    sizes, logits = {"B": batch, "T": length}, _floats(batch, length, dtype=dtype)
    labels, mask, total = _flags(batch, length), _ids(batch, length), _floats(dtype=torch.float64)
    yield Case(
        "masked_bce_with_logits",
        sizes,
        dtype,
        (logits, labels, mask, None, None, 0.0, "mean"),
        ("logits", "mask"),
    )
    yield Case(
        "masked_bce_with_logits_backward",
        sizes,
        dtype,
        (_floats(), logits, labels, mask, None, total, 0.0),
        ("logits", "mask", "gradient"),
    )


def _rtd_head(batch: int, length: int, width: int, dtype: torch.dtype) -> Iterator[Case]:
    sizes = {"B": batch, "T": length, "H": width}
    hidden, weight = _floats(batch, length, width, dtype=dtype), _floats(width, dtype=dtype)
    terms = (_flags(batch, length), _ids(batch, length), None)
    yield Case(
        "linear_masked_bce",
        sizes,
        dtype,
        (hidden, weight, _floats(dtype=dtype), *terms, None, 0.0, "mean", True),
        ("hidden",),
    )
    saved = (_floats(batch, length), *terms, _floats(dtype=torch.float64), _floats(width), _floats())
    yield Case(
        "linear_masked_bce_backward",
        sizes,
        dtype,
        (_floats(), hidden, weight, *saved, 0.0, "mean"),
        ("grad_hidden",),
    )
