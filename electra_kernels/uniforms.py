"""The source of randomness: every op takes its random numbers as an ordinary tensor."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_LARGEST_BELOW_ONE = 1.0 - 2.0**-53


def draw_uniforms(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw independent uniforms on [0, 1) that resolve probabilities down to 2**-48.

    Eager ``torch.rand(dtype=float64)`` has 53 bits, but inductor compiles it to 24 bits, which visibly bias the tail
    of a vocabulary of 30,000 tokens. Under ``torch.compile`` two float32 draws of 24 bits are therefore joined to
    ``high + low * 2**-24``, which takes twice as long.

    Args:
        shape: shape of the result; ``[...]`` for the sampling ops, ``[B, K, 2]`` for ``mask_tokens``.
        generator: the generator to draw from, by default the global one of ``device``. It breaks
            ``torch.compile(fullgraph=True)``: draw outside the compiled function instead.
        device: device of the result, by default the generator's, else torch's default device.

    Returns:
        float64 tensor of ``shape``.
    """
    if device is None and generator is not None:
        device = generator.device
    # Dynamo traces the overload with a generator argument, even None, only for static shapes.
    options: dict[str, Any] = {} if generator is None else {"generator": generator}
    if not torch.compiler.is_compiling():
        return torch.rand(shape, device=device, dtype=torch.float64, **options)
    high = torch.rand(shape, device=device, dtype=torch.float32, **options)
    low = torch.rand(shape, device=device, dtype=torch.float32, **options)
    return low.double().mul_(2.0**-24).add_(high).clamp_(max=_LARGEST_BELOW_ONE)
