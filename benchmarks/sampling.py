"""sample_tokens against Gumbel-max and the other ways to draw tokens in eager torch."""

from collections.abc import Iterator

import torch

import electra_kernels
from benchmarks import baselines, variants
from benchmarks.harness import Case, Size
from benchmarks.timers import Run

MAIN_ROWS = 1024


def cases(size: Size) -> Iterator[Case]:
    if size != "full":
        yield _case(128, baselines.VOCAB_SIZE) if size == "quick" else _case(4, 300, is_main=True)
        return
    yield _case(MAIN_ROWS, baselines.VOCAB_SIZE, is_main=True)
    for rows in (64, 4096):
        yield _case(rows, baselines.VOCAB_SIZE)
    for vocab_size in (1_000, 128_000):
        yield _case(MAIN_ROWS, vocab_size)
    for dtype in (torch.bfloat16, torch.float16):
        yield _case(MAIN_ROWS, baselines.VOCAB_SIZE, dtype)


def _case(rows: int, vocab_size: int, dtype: torch.dtype = torch.float32, is_main: bool = False) -> Case:
    logits = torch.randn(rows, vocab_size, dtype=dtype)
    others: dict[str, Run] = {}
    # At the larger sizes these would take most of the time of a whole benchmark run.
    if is_main or rows * vocab_size < MAIN_ROWS * baselines.VOCAB_SIZE:
        others = {
            "exponential race": lambda: baselines.exponential_race(logits),
            "multinomial(softmax)": lambda: baselines.multinomial(logits),
        }
    runs, absent = variants.collect(
        lambda: baselines.gumbel_max(logits),
        baselines.compiled(baselines.gumbel_max, (logits,), lambda tokens: tokens) if is_main else None,
        others,
        variants.ours("sample_tokens", lambda: electra_kernels.sample_tokens(logits), everywhere=is_main),
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
