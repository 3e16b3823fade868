"""What ``FlopCounterMode`` counts for the heads, against the same model in eager torch."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import electra_kernels
import electra_kernels.nn

B, T, V, E = 2, 3, 20, 8
LOGITS = 2 * B * T * V * E  # a product of hidden [B, T, E] and weight [V, E]
TOKENS = 2 * B * T * E  # a product of hidden [B, T, E] and weight [E]
REDUCTIONS = ["mean", "sum", "none"]
NEEDS = [(True, True), (True, False), (False, True)]


def count(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


def parameters(rows, needs):
    hidden, weight, bias = torch.randn(B, T, E), torch.randn(rows, E), torch.randn(rows)
    return hidden.requires_grad_(needs[0]), weight.requires_grad_(needs[1]), bias.requires_grad_(needs[1])


def masked_lm(hidden, weight, bias, reduction):
    targets = torch.randint(0, V, (B, T))
    return electra_kernels.linear_cross_entropy_sample(
        hidden, weight, bias, targets, reduction=reduction
    ).loss


def eager_masked_lm(hidden, weight, bias, reduction):
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits.flatten(0, 1), torch.randint(0, V, (B * T,)), reduction=reduction)


def token_loss(hidden, weight, bias, reduction):
    labels = torch.randint(0, 2, (B, T))
    return electra_kernels.linear_masked_bce(hidden, weight, bias, labels, reduction=reduction).loss


def eager_token_loss(hidden, weight, bias, reduction):
    logits = F.linear(hidden, weight, bias).squeeze(-1)
    return F.binary_cross_entropy_with_logits(logits, torch.rand(B, T), reduction=reduction)


def step(loss, rows, needs, reduction):
    return count(lambda: loss(*parameters(rows, needs), reduction).sum().backward())


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_of_the_generator_head_counts_as_in_eager_torch(reduction, needs):
    expected = step(eager_masked_lm, V, needs, reduction)
    assert expected == LOGITS * (1 + sum(needs))
    assert step(masked_lm, V, needs, reduction) == expected


@pytest.mark.parametrize("needs", NEEDS)
def test_the_logits_that_are_computed_again_are_counted_again(needs):
    assert step(masked_lm, V, needs, "none") == step(eager_masked_lm, V, needs, "none") + LOGITS


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_generator_head_computes_gradients_in_the_pass_that_counts_them(reduction):
    with FlopCounterMode(display=False) as forward:
        loss = masked_lm(*parameters(V, (True, True)), reduction)
    with FlopCounterMode(display=False) as backward:
        loss.sum().backward()
    counts = (forward.get_total_flops(), backward.get_total_flops())
    assert counts == ((LOGITS, 3 * LOGITS) if reduction == "none" else (3 * LOGITS, 0))


@pytest.mark.parametrize("needs", NEEDS[:2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_of_the_discriminator_head_counts_as_in_eager_torch(reduction, needs):
    expected = step(eager_token_loss, 1, needs, reduction)
    assert expected == TOKENS * (1 + sum(needs))
    assert step(token_loss, 1, needs, reduction) == expected


def test_a_loss_per_token_of_the_discriminator_head_counts_as_in_eager_torch():
    needs = (True, True)
    assert step(token_loss, 1, needs, "none") == step(eager_token_loss, 1, needs, "none") == 3 * TOKENS


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_without_gradients_only_the_logits_count(reduction):
    with torch.no_grad():
        assert count(masked_lm, *parameters(V, (True, True)), reduction) == LOGITS
        assert count(token_loss, *parameters(1, (True, True)), reduction) == TOKENS


def test_a_bias_alone_needs_no_product_of_its_own():
    hidden, weight, bias = parameters(V, (False, False))
    assert count(lambda: masked_lm(hidden, weight, bias.requires_grad_(), "mean").backward()) == LOGITS


def test_a_count_belongs_to_its_module():
    head = electra_kernels.nn.GeneratorHead(E, V)
    with FlopCounterMode(display=False) as counter:
        head(torch.randn(B, T, E), torch.randint(0, V, (B, T)))
    op = torch.ops.electra_kernels.linear_cross_entropy_sample
    assert counter.get_flop_counts()["GeneratorHead"] == {op: 2 * LOGITS}


IMPORTS = ["import electra_kernels", "from torch.utils.flop_counter import FlopCounterMode"]
PROGRAM = """
import torch
with FlopCounterMode(display=False) as counter:
    electra_kernels.linear_masked_bce(torch.ones(5, 3), torch.ones(3), None, torch.ones(5))
print(counter.get_total_flops())
"""


@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]], ids=["ops first", "counter first"])
def test_the_order_of_the_imports_does_not_matter(imports):
    program = "\n".join(imports) + PROGRAM
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "30"), done.stderr
