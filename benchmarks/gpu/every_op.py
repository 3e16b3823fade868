"""``python -m benchmarks.gpu.every_op BACKEND DEVICE VOCABULARY...``: call every op, for compute-sanitizer."""

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

import electra_kernels
from electra_kernels import use_backend

_BATCH, _LENGTH, _SLOTS, _WIDTH = 3, 16, 2, 24


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.every_op", description=__doc__)
    parser.add_argument("backend")
    parser.add_argument("device")
    parser.add_argument("vocabularies", nargs="+", type=int, help="sizes above 300")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    done = []
    with use_backend(arguments.backend), torch.device(arguments.device):
        done += list(_token_ops())
        for dtype in (torch.float32, torch.bfloat16):
            for vocab_size in arguments.vocabularies:
                done += list(_row_ops(vocab_size, dtype))
            done += list(_binary_ops(dtype))
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    print(f"{arguments.backend} on {arguments.device}: {len(done)} calls of {len(set(done))} ops")


def _token_ops() -> Iterator[str]:
    input_ids = torch.randint(200, 300, (_BATCH, _LENGTH))
    masked = electra_kernels.mask_tokens(
        input_ids, input_ids > 210, mask_token_id=103, vocab_size=301, random_fraction=0.1
    )
    yield "mask_tokens"
    tokens = torch.randint(200, 300, masked.targets.shape)
    electra_kernels.replace_tokens(input_ids, masked.positions, tokens)
    yield "replace_tokens"


def _row_ops(vocab_size: int, dtype: torch.dtype) -> Iterator[str]:
    logits = torch.randn(_BATCH, _SLOTS, vocab_size, dtype=dtype, requires_grad=True)
    targets = torch.tensor([[5, -100]]).expand(_BATCH, -1).contiguous()
    electra_kernels.sample_tokens(logits, temperature=0.7, banned=targets)[1].sum().backward()
    yield "sample_tokens"
    input_ids = torch.randint(200, 300, (_BATCH, _LENGTH))
    positions = torch.arange(_SLOTS).expand(_BATCH, -1).contiguous()
    electra_kernels.sample_replacements(logits.detach(), input_ids, positions, targets)
    yield "sample_replacements"
    for reduction in ("mean", "none"):
        electra_kernels.cross_entropy_sample(logits, targets, reduction=reduction).loss.sum().backward()
        yield "cross_entropy_sample"
    electra_kernels.cross_entropy_sample(logits * 1, targets, inplace_backward=True).loss.backward()
    yield "cross_entropy_sample in place"
    for reduction in ("mean", "none"):
        hidden = _parameter(_BATCH, _SLOTS, _WIDTH, dtype=dtype)
        weight, bias = _parameter(vocab_size, _WIDTH, dtype=dtype), _parameter(vocab_size, dtype=dtype)
        result = electra_kernels.linear_cross_entropy_sample(
            hidden, weight, bias, targets, reduction=reduction
        )
        (2 * result.loss).sum().backward()
        yield "linear_cross_entropy_sample"


def _binary_ops(dtype: torch.dtype) -> Iterator[str]:
    labels, mask = (torch.rand(_BATCH, _LENGTH) < share for share in (0.3, 0.9))
    for reduction in ("mean", "none"):
        logits = _parameter(_BATCH, _LENGTH, dtype=dtype)
        electra_kernels.masked_bce_with_logits(logits, labels, mask, reduction=reduction).sum().backward()
        yield "masked_bce_with_logits"
        hidden = _parameter(_BATCH, _LENGTH, _WIDTH, dtype=dtype)
        weight, bias = _parameter(_WIDTH, dtype=dtype), _parameter(1, dtype=dtype)
        result = electra_kernels.linear_masked_bce(hidden, weight, bias, labels, mask, reduction=reduction)
        result.loss.sum().backward()
        yield "linear_masked_bce"


def _parameter(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


if __name__ == "__main__":
    main()
