"""sample_tokens against the ways to draw a token in eager torch."""

from collections.abc import Iterator

import torch

import electra_kernels
from benchmarks.harness import Case


def cases(quick: bool) -> Iterator[Case]:
    for rows, vocab_size in [(128, 30_522)] if quick else [(64, 30_522), (1024, 30_522), (1024, 1_000)]:
        yield _case(rows, vocab_size)


def _case(rows: int, vocab_size: int) -> Case:
    logits = torch.randn(rows, vocab_size)

    def gumbel() -> object:
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_(min=1e-20)))
        return (logits + noise).argmax(-1)

    def exponential_race() -> object:
        return logits.softmax(-1).div_(torch.empty_like(logits).exponential_()).argmax(-1)

    contenders = {
        "eager Gumbel-max": gumbel,
        "eager exponential race": exponential_race,
        "multinomial(softmax)": lambda: torch.multinomial(logits.softmax(-1), 1),
        "ours": lambda: electra_kernels.sample_tokens(logits),
    }
    return Case(f"sample_tokens N={rows} V={vocab_size}", contenders, 4 * rows * vocab_size)
