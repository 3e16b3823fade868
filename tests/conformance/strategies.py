"""What the properties draw from: sizes, memory layouts, dtypes, and numbers that no model should have."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

few = settings.get_profile("properties")  # many under `make fuzz`
seeds = st.integers(0, 2**31)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
reductions = st.sampled_from(["mean", "sum", "none"])
temperatures = st.floats(0.1, 10)

_HOSTILE = ("nan", "inf", "-inf", "max", "-max", "tiny", "-tiny", "subnormal", "0", "-0", "88.9", "-104")


@st.composite
def layouts(draw, shape):
    """A permutation of the dimensions in memory, a step and an offset: view(values) has the values and that layout."""
    order = draw(st.permutations(range(len(shape))))
    step, offset = draw(st.integers(1, 3)), draw(st.integers(0, 5))

    def view(values):
        strides, size = [0] * len(shape), step
        for dimension in order:
            strides[dimension] = size
            size *= max(shape[dimension], 1)
        memory = torch.full((size + offset,), torch.nan, dtype=torch.float64, device=values.device)
        return memory.to(values.dtype).as_strided(shape, strides, offset).copy_(values)

    return view


@st.composite
def hostile(draw, *, without=()):
    """spoil(values, generator): some of the values become NaN, infinite, the largest or the smallest there are."""
    names = draw(st.sets(st.sampled_from([name for name in _HOSTILE if name not in without]), max_size=4))
    share = draw(st.sampled_from([0.002, 0.05, 0.5]))

    def spoil(values: Tensor, generator: torch.Generator) -> Tensor:
        for name in sorted(names):
            hit = torch.rand(values.shape, generator=generator) < share
            values = values.masked_fill(hit.to(values.device), _number(name, values.dtype))
        return values

    return spoil


def _number(name: str, dtype: torch.dtype) -> float:
    limits, sign = torch.finfo(dtype), -1.0 if name.startswith("-") else 1.0
    special = {"max": limits.max, "tiny": limits.tiny, "subnormal": limits.tiny * limits.eps}
    return sign * special[name.strip("-")] if name.strip("-") in special else float(name)
