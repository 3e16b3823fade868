"""PyTorch's own test samples (OpInfo) of the two losses, where the ops here have the same arguments."""

import importlib.util
import sys
import types
import unittest

import torch
import torch.nn.functional as F

from electra_kernels import cross_entropy_sample, masked_bce_with_logits

from . import oracle
from .cases import DTYPES


def _op_db():
    """PyTorch's op database by name. Its module imports the package expecttest; the name of one class suffices here."""
    if "expecttest" not in sys.modules and importlib.util.find_spec("expecttest") is None:
        sys.modules["expecttest"] = types.ModuleType("expecttest")
        sys.modules["expecttest"].TestCase = unittest.TestCase
    from torch.testing._internal.common_methods_invocations import op_db

    return {op.name: op for op in op_db}


def _assert_agrees(ours, function, logits, scale):
    """Compares loss and gradient with ``function`` in float64; its error in the dtype of the logits is allowed."""
    upstream = torch.linspace(0.5, 2, ours.numel(), device=ours.device).reshape(ours.shape)
    (gradient,) = torch.autograd.grad(ours, logits, upstream)
    results = []
    for value in (logits.detach().double().requires_grad_(), logits):
        loss = function(value)
        results.append((loss.detach(), *torch.autograd.grad(loss, value, upstream.to(loss.dtype))))
    (loss, expected), (eager_loss, eager) = results
    oracle.assert_accurate("loss", ours, loss, eager_loss, scale=scale)
    oracle.assert_accurate("gradient", gradient, expected, eager, scale=scale, precision=logits.dtype)


def _binary_cross_entropy(logits, labels, options):
    """PyTorch's ``weight`` is a float mask here. Its mean divides by the number of elements, ours by the mask's sum."""
    mask, rest = options.get("weight"), {key: value for key, value in options.items() if key != "weight"}
    elements = logits.numel() if options.get("reduction", "mean") == "mean" else None
    ours = masked_bce_with_logits(logits, labels, mask, normalizer=elements, **rest)

    def function(value):
        tensors = {key: v.to(value.dtype) for key, v in options.items() if isinstance(v, torch.Tensor)}
        return F.binary_cross_entropy_with_logits(value, labels.to(value.dtype), **{**options, **tensors})

    weights = [value.abs().max() for value in options.values() if isinstance(value, torch.Tensor)]
    _assert_agrees(
        ours, function, logits, scale=_summed_terms(logits, options) * torch.tensor([10.0, *weights]).prod()
    )


def _cross_entropy(logits, targets, options):
    ours = cross_entropy_sample(logits.movedim(1, -1), targets, **options).loss
    scale = torch.tensor(20.0 * _summed_terms(targets, options))
    _assert_agrees(ours, lambda value: F.cross_entropy(value, targets, **options), logits, scale)


def _summed_terms(values, options):
    return values.numel() if options.get("reduction") == "sum" else 1


def test_samples_of_binary_cross_entropy_and_of_cross_entropy_with_class_targets(device):
    """All 26 samples of the binary loss, and 8 of 21 of the other: the rest has class weights or soft targets.

    This is one test because PyTorch's module takes seconds to load.
    """
    op_db = _op_db()
    for dtype in DTYPES:
        counts = {"binary_cross_entropy_with_logits": 0, "cross_entropy": 0}
        for name in counts:
            for sample in op_db[f"nn.functional.{name}"].sample_inputs(device, dtype):
                logits, target = sample.input.detach().requires_grad_(), sample.args[0].detach()
                if name == "binary_cross_entropy_with_logits":
                    _binary_cross_entropy(logits, target, sample.kwargs)
                elif not target.is_floating_point() and "weight" not in sample.kwargs:
                    _cross_entropy(logits, target, sample.kwargs)
                else:
                    continue
                counts[name] += 1
        assert counts == {"binary_cross_entropy_with_logits": 26, "cross_entropy": 8}
