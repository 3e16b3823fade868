"""sample_tokens, replace_tokens and sample_replacements against the ways to do it in eager torch."""

from collections.abc import Iterator

import torch
from torch import Tensor

import electra_kernels
from benchmarks import contenders, masking, recipes
from benchmarks.harness import Case, Size

MAIN_ROWS = 1024


def cases(size: Size) -> Iterator[Case]:
    if size == "tiny":
        yield _sample(4, 300, is_main=True)
        yield from _replacements(1, 8, is_main=True)
        return
    if size == "quick":
        yield _sample(128, recipes.VOCAB_SIZE)
        yield from _replacements(16, 128, is_main=False)
        return
    yield _sample(MAIN_ROWS, recipes.VOCAB_SIZE, is_main=True)
    for rows in (64, 4096):
        yield _sample(rows, recipes.VOCAB_SIZE)
    for vocab_size in (1_000, 128_000):
        yield _sample(MAIN_ROWS, vocab_size)
    for dtype in (torch.bfloat16, torch.float16):
        yield _sample(MAIN_ROWS, recipes.VOCAB_SIZE, dtype)
    yield from _replacements(128, 128, is_main=True)


def _sample(rows: int, vocab_size: int, dtype: torch.dtype = torch.float32, is_main: bool = False) -> Case:
    logits = torch.randn(rows, vocab_size, dtype=dtype)
    others: dict[str, contenders.Run] = {}
    # At the larger sizes they would take most of the time that all benchmarks have.
    if is_main or rows * vocab_size < MAIN_ROWS * recipes.VOCAB_SIZE:
        others = {
            "exponential race": lambda: recipes.exponential_race(logits),
            "multinomial(softmax)": lambda: recipes.multinomial(logits),
        }
    runs, absent = contenders.line_up(
        lambda: recipes.gumbel_max(logits),
        contenders.compiled(recipes.gumbel_max, (logits,), lambda tokens: tokens) if is_main else None,
        others,
        contenders.ours("sample_tokens", lambda: electra_kernels.sample_tokens(logits), everywhere=is_main),
    )
    return Case(
        "sample_tokens",
        {"N": rows, "V": vocab_size},
        runs,
        bytes_read=rows * vocab_size * dtype.itemsize,
        dtype=dtype,
        absent=absent,
        is_main=is_main,
    )


def _sampled_and_replaced(logits: Tensor, input_ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    return recipes.replace(input_ids, positions, recipes.gumbel_max(logits))


def _replacements(batch: int, length: int, is_main: bool) -> Iterator[Case]:
    slots = masking.slots(length)
    input_ids = torch.randint(1000, recipes.VOCAB_SIZE, (batch, length))
    positions = torch.rand(batch, length).topk(slots).indices
    targets = input_ids.gather(1, positions)
    tokens = torch.randint(1000, recipes.VOCAB_SIZE, (batch, slots))
    logits = torch.randn(batch, slots, recipes.VOCAB_SIZE)
    written = batch * length * (8 + 1)  # ids and labels
    common = {"B": batch, "T": length, "K": slots}

    def ours_both() -> object:
        return electra_kernels.sample_replacements(logits, input_ids, positions, targets)

    # Every option of torch.compile is in sample_tokens; what it adds here is replace_tokens.
    runs, absent = contenders.line_up(
        lambda: _sampled_and_replaced(logits, input_ids, positions),
        None,
        contenders.ours("sample_replacements", ours_both, everywhere=is_main),
    )
    read = logits.numel() * 4 + batch * length * 8 + batch * slots * 8
    yield Case("sample_replacements", common, runs, read, written, absent=absent, is_main=is_main)

    arguments = (input_ids, positions, tokens)
    runs, absent = contenders.line_up(
        lambda: recipes.replace(*arguments),
        contenders.compiled(recipes.replace, arguments, lambda result: result) if is_main else None,
        contenders.ours(
            "replace_tokens", lambda: electra_kernels.replace_tokens(*arguments), everywhere=is_main
        ),
    )
    read = batch * length * 8 + batch * slots * (8 + 8)
    yield Case("replace_tokens", common, runs, read, written, absent=absent, is_main=is_main)
