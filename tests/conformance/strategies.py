"""Hypothesis strategies for the properties: sizes, memory layouts, dtypes, and numbers that no model should produce."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from .cases import DTYPES

property_settings = settings.get_profile("properties")  # `make fuzz` sets a larger number of examples
seeds = st.integers(0, 2**31)
dtypes = st.sampled_from(DTYPES)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
reductions = st.sampled_from(["mean", "sum", "none"])
temperatures = st.floats(0.1, 10)

_HOSTILE = ("nan", "inf", "-inf", "max", "-max", "tiny", "-tiny", "subnormal", "0", "-0", "88.9", "-104")


@st.composite
def layouts(draw, shape):
    """Draws ``view(values)``, which copies values into memory with drawn dimension order, stride and offset."""
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
def hostile_values(draw, *, without=()):
    """Draws ``insert(values, generator)``, which overwrites some values with NaN, infinities or extreme numbers."""
    names = draw(st.sets(st.sampled_from([name for name in _HOSTILE if name not in without]), max_size=4))
    share = draw(st.sampled_from([0.002, 0.05, 0.5]))

    def insert(values: Tensor, generator: torch.Generator) -> Tensor:
        for name in sorted(names):
            overwritten = torch.rand(values.shape, generator=generator) < share
            values = values.masked_fill(overwritten.to(values.device), _number(name, values.dtype))
        return values

    return insert


def _number(name: str, dtype: torch.dtype) -> float:
    limits, sign = torch.finfo(dtype), -1.0 if name.startswith("-") else 1.0
    special = {"max": limits.max, "tiny": limits.tiny, "subnormal": limits.tiny * limits.eps}
    return sign * special[name.strip("-")] if name.strip("-") in special else float(name)
