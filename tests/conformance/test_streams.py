"""What a GPU asks besides numbers: capture in a CUDA graph, any stream, any device.

Without a GPU the same steps run on the CPU, where a call is "replayed" by calling it again.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .cases import CASES, build


def _call(case, tensors):
    """Outputs and gradients of a call with these tensors, none of which it may write to."""
    leaves = {name: tensors[name].detach().requires_grad_() for name in case.differentiable}
    outputs = case.outputs(**{**tensors, **leaves})
    total = sum(output.sum() for output in outputs if output.requires_grad)
    gradients = torch.autograd.grad(total, list(leaves.values())) if leaves else ()
    return [*(output.detach() for output in outputs), *gradients]


def _capture(
    device: torch.device, function: Callable[[], list[Tensor]]
) -> tuple[list[Tensor], Callable[[], None]]:
    """Outputs in memory of their own, and what computes them anew from the inputs as they are then."""
    if device.type == "cpu":
        outputs = function()

        def call_again() -> None:
            for output, value in zip(outputs, function()):
                output.copy_(value)

        return outputs, call_again
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):  # compiles what is compiled at the first call
            function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return outputs, graph.replay


def _equal(ours, expected):
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_a_captured_call_is_replayed_with_new_inputs(device, dtype, name):
    """Nothing of the first inputs is baked in: neither values, nor counts, nor what was drawn."""
    case = build(name, device, dtype)
    tensors = {key: value.clone() for key, value in case.tensors.items()}
    outputs, replay = _capture(device, lambda: _call(case, tensors))
    for seed in (1, 2):
        torch.manual_seed(seed)
        fresh = build(name, device, dtype)
        for key, value in fresh.tensors.items():
            tensors[key].copy_(value)
        replay()
        _equal(outputs, _call(case, fresh.tensors))


@pytest.mark.parametrize("name", CASES)
def test_a_call_is_in_order_on_the_stream_that_is_current(device, name):
    """The inputs are written late on a stream of their own: kernels on another stream would read them too early."""
    case = build(name, device)
    expected = _call(case, case.tensors)
    tensors = {key: torch.zeros_like(value) for key, value in case.tensors.items()}
    with torch.cuda.stream(torch.cuda.Stream(device) if device.type == "cuda" else None):
        work = torch.ones(
            4096 if device.type == "cuda" else 8, 4096 if device.type == "cuda" else 8, device=device
        )
        for _ in range(20):
            work = (work @ work).clamp(max=1)
        for key, value in case.tensors.items():
            tensors[key].copy_(value)
        ours = _call(case, tensors)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    _equal(ours, expected)


@pytest.mark.parametrize("name", CASES)
def test_tensors_on_a_device_that_is_not_current(device, name):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    other = torch.device("cuda", 1) if device.type == "cuda" else device
    case = build(name, device)
    ours = _call(case, {key: value.to(other) for key, value in case.tensors.items()})
    assert all(output.device == other for output in ours)
    _equal([output.to(device) for output in ours], _call(case, case.tensors))
