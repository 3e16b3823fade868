"""The baselines: what a careful user of PyTorch writes, eagerly and with torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.variants import Variants

MASK, VOCAB_SIZE = 103, 30_522  # BERT's

# Back end of torch.compile. Another one tries a benchmark without waiting for compilers.
compiler = "inductor"


def gumbel_max(logits: Tensor) -> Tensor:
    """Tokens [...] drawn from softmax(logits [..., V]); the noise is float32 whatever the logits are."""
    noise = -torch.log(-torch.log(torch.rand(logits.shape, device=logits.device).clamp_(min=1e-20)))
    return (logits + noise).argmax(-1)


def exponential_race(logits: Tensor) -> Tensor:
    """Tokens [...] drawn from softmax(logits [..., V])."""
    probabilities = logits.softmax(-1, dtype=torch.float32)
    return probabilities.div_(torch.empty_like(probabilities).exponential_()).argmax(-1)


def multinomial(logits: Tensor) -> Tensor:
    """Tokens [N, 1] drawn from softmax(logits [N, V])."""
    return torch.multinomial(logits.softmax(-1, dtype=torch.float32), 1)


def mask(input_ids: Tensor, maskable: Tensor, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Masked ids [B, T], positions and targets [B, K], by random keys, top-k, gather and scatter."""
    keys = torch.rand(input_ids.shape, device=input_ids.device).masked_fill_(~maskable, -1)
    positions = keys.topk(slots).indices
    targets = input_ids.gather(1, positions)
    written = targets.where(torch.rand(targets.shape, device=targets.device) >= 0.85, MASK)
    return input_ids.scatter(1, positions, written), positions, targets


def replace(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Replaced ids and what changed, both [B, T]."""
    replaced = input_ids.scatter(1, positions, tokens)
    return replaced, replaced != input_ids


def masked_bce(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Mean loss [] where ``mask`` is true; all arguments [B, T]."""
    losses = binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    return (losses * mask).sum() / mask.sum()


def compiled(
    baseline: Callable[..., Any], arguments: tuple[Any, ...], finish: Callable[[Any], object]
) -> Variants:
    """torch.compile of a baseline; ``finish`` takes its result and runs the backward."""
    function = torch.compile(baseline, dynamic=False, backend=compiler)

    def run() -> object:
        return finish(function(*arguments))

    if torch.get_default_device().type != "cpu":
        # The first run compiles. Code that is compiled under a default device is of no use without one.
        return Variants({"torch.compile": run}, {})
    try:
        run()
    except torch._dynamo.exc.TorchDynamoException as error:
        return Variants({}, {"torch.compile": str(error).splitlines()[0]})
    return Variants({"torch.compile": run}, {})
