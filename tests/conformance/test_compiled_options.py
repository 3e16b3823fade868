"""Float options in a compiled graph: a new value takes effect without another compilation."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import electra_kernels as ek

from .cases import build

VALUES = (0.05, 0.125, 0.35, 0.4, 0.55)
# One graph for the first value, one for all others. The default value would need a third, as it is a constant.
GRAPHS = 2
OPTIONS = [
    *[
        (name, option)
        for name in ("masked_bce_with_logits", "linear_masked_bce")
        for option in ("normalizer", "pos_weight", "label_smoothing")
    ],
    *[
        (name, option)
        for name in ("cross_entropy_sample", "linear_cross_entropy_sample")
        for option in ("normalizer", "z_loss", "temperature")
    ],
    ("sample_tokens", "temperature"),
    ("sample_replacements", "temperature"),
    *[("mask_tokens", option) for option in ("probability", "mask_fraction", "random_fraction")],
]


def _outputs_for(name, option, leaves):
    case = build(name)
    base = {"mask_fraction": 0.01, "random_fraction": 0.01} if name == "mask_tokens" else {}

    def outputs(value):
        changes = {**base, **leaves, option: value}
        # The second use of the value is what makes a stale value of PyTorch's own silent.
        return [*case.outputs(**changes), torch.ones(2).square().sum() / value]

    return outputs


def _with_gradients(outputs, leaves):
    total = sum(output.sum() for output in outputs if output.requires_grad)
    if not leaves:
        return outputs
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [*outputs, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_new_value_takes_effect_without_a_new_graph(name, option):
    torch._dynamo.reset()
    leaves = build(name).leaves()
    function = _outputs_for(name, option, leaves)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True)
    for value in VALUES:
        ours, expected = (_with_gradients(run(value), list(leaves.values())) for run in (compiled, function))
        torch.testing.assert_close(ours, expected)
    assert counter.frame_count <= GRAPHS


@pytest.mark.parametrize("option", ["normalizer", "label_smoothing"])
def test_inductor_uses_every_value(option):
    torch._dynamo.reset()
    logits, labels = torch.randn(4, 8), torch.randint(0, 2, (4, 8))

    def function(value):
        loss = ek.masked_bce_with_logits(logits, labels, **{option: value})
        return loss + logits.square().sum() / value

    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(function, backend=counter, fullgraph=True)
    for value in VALUES:
        torch.testing.assert_close(compiled(value), function(value))
    assert counter.frame_count <= GRAPHS


def test_an_integer_for_a_float_option_is_not_baked_in():
    torch._dynamo.reset()
    logits, labels = torch.randn(4, 8), torch.randint(0, 2, (4, 8))

    def function(count):
        return ek.masked_bce_with_logits(logits, labels, normalizer=count) + logits.sum() / count

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, fullgraph=True)
    for count in (3, 5, 7, 11, 13):
        torch.testing.assert_close(compiled(count), function(count))
    assert counter.frame_count <= GRAPHS
