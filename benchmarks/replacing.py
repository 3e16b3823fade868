"""sample_replacements and replace_tokens against Gumbel-max and scatter in eager torch."""

from collections.abc import Iterator

import torch
from torch import Tensor

import electra_kernels
from benchmarks import baselines, masking, variants
from benchmarks.harness import Case, Size


def cases(size: Size) -> Iterator[Case]:
    batch, length = {"tiny": (1, 8), "quick": (16, 128), "full": (128, 128)}[size]
    slots, is_main = masking.slots(length), size != "quick"
    input_ids = torch.randint(1000, baselines.VOCAB_SIZE, (batch, length))
    positions = torch.rand(batch, length).topk(slots).indices
    yield _sample_replacements(input_ids, positions, is_main)
    yield _replace_tokens(input_ids, positions, is_main)


def _sample_replacements(input_ids: Tensor, positions: Tensor, is_main: bool) -> Case:
    targets = input_ids.gather(1, positions)
    logits = torch.randn(*positions.shape, baselines.VOCAB_SIZE)

    def eager() -> object:
        return baselines.replace(input_ids, positions, baselines.gumbel_max(logits))

    def ours() -> object:
        return electra_kernels.sample_replacements(logits, input_ids, positions, targets)

    # torch.compile is left out here: the cases of sample_tokens and replace_tokens have it.
    runs, absent = variants.collect(
        eager, None, variants.ours("sample_replacements", ours, everywhere=is_main)
    )
    return Case(
        "sample_replacements",
        _sizes(positions, input_ids),
        runs,
        bytes_read=logits.nbytes + input_ids.nbytes + positions.nbytes,
        bytes_written=_written(input_ids),
        absent=absent,
        is_main=is_main,
    )


def _replace_tokens(input_ids: Tensor, positions: Tensor, is_main: bool) -> Case:
    tokens = torch.randint(1000, baselines.VOCAB_SIZE, positions.shape)
    arguments = (input_ids, positions, tokens)
    runs, absent = variants.collect(
        lambda: baselines.replace(*arguments),
        baselines.compiled(baselines.replace, arguments, lambda result: result) if is_main else None,
        variants.ours(
            "replace_tokens", lambda: electra_kernels.replace_tokens(*arguments), everywhere=is_main
        ),
    )
    return Case(
        "replace_tokens",
        _sizes(positions, input_ids),
        runs,
        bytes_read=input_ids.nbytes + positions.nbytes + tokens.nbytes,
        bytes_written=_written(input_ids),
        absent=absent,
        is_main=is_main,
    )


def _sizes(positions: Tensor, input_ids: Tensor) -> dict[str, int]:
    batch, slots = positions.shape
    return {"B": batch, "T": input_ids.shape[1], "K": slots}


def _written(input_ids: Tensor) -> int:
    """Bytes of the replaced ids and of the boolean labels."""
    return input_ids.numel() * (8 + 1)
