"""The kernels compiled for a GPU that need not be here: their variants, their spills, their exponentials."""

from functools import cache

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.codegen import assembly, compilation
from benchmarks.codegen.launches import launches_of
from electra_kernels.backends.implementations import from_package

try:
    TARGET = compilation.target_of(90)
except compilation.CannotCompileError as error:
    pytest.skip(str(error), allow_module_level=True)

VOCABULARY, LENGTH, WIDTH, SLOTS = 30_522, 128, 256, 19
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IGNORED = -100


def _empty(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def calls(rows, dtype=torch.bfloat16):
    """Yield (op, arguments) of every op. ``rows`` counts rows of logits, hidden states or ids, or tokens."""
    logits, row, number = _empty(rows, VOCABULARY, dtype=dtype), _empty(rows), _empty()
    ids, uniforms = _empty(rows, dtype=torch.int64), _empty(rows, dtype=torch.float64)
    total, parts = _empty(dtype=torch.float64), _empty(rows, 2)
    options = (IGNORED, "mean", 0.0, 1.0, False)
    yield "sample_tokens", (logits, None, uniforms, 1.0)
    yield "sample_tokens_backward", (row, logits, parts)
    yield "cross_entropy_sample", (logits, ids, uniforms, None, *options)
    for upstream in (number, row):
        for of_logsumexp in (None, row):
            saved = (logits, ids, parts, total)
            yield "cross_entropy_sample_backward", (upstream, of_logsumexp, *saved, IGNORED, 0.0)
    yield "cross_entropy_sample_", (logits, ids, uniforms, None, *options)
    yield "scale_gradient_", (logits, number)
    head = (_empty(rows, WIDTH, dtype=dtype), _empty(VOCABULARY, WIDTH, dtype=dtype), _empty(VOCABULARY))
    yield "linear_cross_entropy_sample", (*head, ids, uniforms, None, *options, [True] * 3)

    terms = _empty(rows, dtype=torch.bool), _empty(rows, dtype=torch.int64), None
    hidden, weight = _empty(rows, WIDTH, dtype=dtype), _empty(WIDTH, dtype=dtype)
    for reduction, upstream in (("mean", number), ("none", row)):
        tokens = row.to(dtype)
        yield "masked_bce_with_logits", (tokens, *terms, None, 0.0, reduction)
        yield "masked_bce_with_logits_backward", (upstream, tokens, *terms, total, 0.0)
        yield "linear_masked_bce", (hidden, weight, number, *terms, None, 0.0, reduction, True)
        saved = (hidden, weight, row, *terms, total, _empty(WIDTH), number)
        yield "linear_masked_bce_backward", (upstream, *saved, 0.0, reduction)

    words, flags = _empty(rows, LENGTH, dtype=torch.int64), _empty(rows, LENGTH, dtype=torch.bool)
    slots, pairs = _empty(rows, SLOTS, dtype=torch.int64), _empty(rows, SLOTS, 2, dtype=torch.float64)
    yield "mask_tokens", (words, flags, pairs, 103, VOCABULARY, 0.15, 0.85, 0.1)
    yield "replace_tokens", (words, slots, slots)
    drawn = _empty(rows, SLOTS, VOCABULARY, dtype=dtype), words, slots, slots, pairs[..., 0]
    yield "sample_replacements", (*drawn, 1.0, True)


def launches(op, arguments, multiprocessors=132):
    functions = from_package("triton")
    return launches_of(lambda: functions[op](*arguments), multiprocessors, 50 << 20)


def variants(rows, multiprocessors):
    """The keys of all variants that Triton compiles for calls of all ops with this number of rows."""
    return {
        compilation.bind(launch, TARGET)[2]
        for op, arguments in calls(rows)
        for launch in launches(op, arguments, multiprocessors)
    }


# On a large GPU, few rows are scanned in parts. On a small one, each program has a row.
@pytest.mark.parametrize(
    "multiprocessors, numbers",
    [(1000, range(1, 41)), (1, (2, 3, 16, 17, 32, 1000, 1024, 2**17, 2**17 + 5))],
)
def test_the_number_of_rows_causes_no_recompilation(multiprocessors, numbers):
    usual = variants(7, multiprocessors)
    for rows in numbers:
        assert variants(rows, multiprocessors) == usual, f"{rows} rows"


@pytest.mark.parametrize("ignore_index", [-1, 0, 1, 16, 32_000])
def test_values_of_options_cause_no_recompilation(ignore_index):
    logits, ids, uniforms = _empty(9, 1000), _empty(9, dtype=torch.int64), _empty(9, dtype=torch.float64)
    found = [
        {
            compilation.bind(launch, TARGET)[2]
            for op in ("cross_entropy_sample", "cross_entropy_sample_")
            for launch in launches(
                op, (logits, ids, uniforms, None, value, "mean", z_loss, temperature, False)
            )
        }
        for value, z_loss, temperature in ((IGNORED, 0.0, 0.5), (ignore_index, 0.1, 0.7))
    ]
    assert found[0] == found[1]


def test_alignment_of_targets_and_uniforms_causes_no_recompilation():
    """A chunk of rows may begin anywhere in the batch."""
    logits, ids, uniforms = _empty(9, 1000), torch.zeros(10).long(), torch.zeros(10).double()
    found = [
        {
            compilation.bind(launch, TARGET)[2]
            for launch in launches(
                "cross_entropy_sample",
                (logits, ids[part], uniforms[part], None, IGNORED, "mean", 0.0, 1.0, False),
            )
        }
        for part in (slice(0, 9), slice(1, 10))
    ]
    assert found[0] == found[1]


# The types of logits, labels and mask that need the most registers.
@pytest.mark.parametrize(
    "types",
    [
        (torch.float32, torch.int64, torch.int64),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.uint8),
        (torch.float16, torch.bool, torch.bool),
    ],
)
def test_token_losses_of_any_types_spill_no_registers(types):
    logits, labels, mask = (_empty(1000, dtype=dtype) for dtype in types)
    (losses, _) = launches("masked_bce_with_logits", (logits, labels, mask, None, None, 0.0, "mean"))
    sass, _ = assembly.disassemble(compilation.compile_launch(losses, TARGET).asm["cubin"])
    assert assembly.spills(assembly.instructions(sass)) == (0, 0)


_compiled = {}


def ptx_of(launch):
    _, _, key = compilation.bind(launch, TARGET)
    if key not in _compiled:
        _compiled[key] = compilation.compile_launch(launch, TARGET).asm["ptx"]
    return _compiled[key]


@cache
def gradients(dtype):
    """Launches that compute a gradient of probabilities, by the name of their kernel."""
    found = {}
    for op, arguments in calls(1024, dtype):
        for launch in launches(op, arguments):
            if launch.constants.get("WRITES", launch.name != "cross_entropy_rows"):
                found.setdefault(launch.name, []).append(launch)
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_gradients_keep_denormal_numbers(dtype):
    """An upstream gradient may lift them above the smallest normal number, so `.ftz` must not flush them to zero."""
    for kernel in ("softmax_rows", "bce_backward", "head_forward", "head_backward"):
        for launch in gradients(dtype)[kernel]:
            ptx = ptx_of(launch)
            assert "ex2.approx.f32" in ptx
            assert ".ftz" not in ptx, f"{kernel} flushes denormal numbers"


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_gradients_in_place_keep_denormal_numbers(dtype):
    """The sums may flush denormal terms, since one term is about 1. The code that the gradient adds may not."""
    for launch in gradients(dtype)["cross_entropy_rows"]:
        without_gradient = type(launch)(
            launch.kernel,
            launch.programs,
            launch.arguments,
            launch.num_warps,
            {**launch.constants, "WRITES": False},
        )
        assert ptx_of(launch).count(".ftz") == ptx_of(without_gradient).count(".ftz") > 0
        assert "ex2.approx.f32" in ptx_of(launch)
        assert "ex2.approx.f32" not in ptx_of(without_gradient)
