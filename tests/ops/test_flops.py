"""FLOPs that ``FlopCounterMode`` counts for the two heads, against the same computation in eager torch."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import electra_kernels
import electra_kernels.nn

B, T, V, E = 2, 3, 20, 8
LOGITS_FLOPS = 2 * B * T * V * E  # hidden [B, T, E] times weight [V, E]
TOKEN_FLOPS = 2 * B * T * E  # hidden [B, T, E] times weight [E]
REDUCTIONS = ["mean", "sum", "none"]
# Whether hidden requires grad, and whether weight and bias do.
NEEDS = [(True, True), (True, False), (False, True)]


def count_flops(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        function(*arguments)
    return counter.get_total_flops()


def parameters(rows, needs):
    hidden, weight, bias = torch.randn(B, T, E), torch.randn(rows, E), torch.randn(rows)
    return hidden.requires_grad_(needs[0]), weight.requires_grad_(needs[1]), bias.requires_grad_(needs[1])


def masked_lm_loss(hidden, weight, bias, reduction):
    targets = torch.randint(0, V, (B, T))
    return electra_kernels.linear_cross_entropy_sample(
        hidden, weight, bias, targets, reduction=reduction
    ).loss


def eager_masked_lm_loss(hidden, weight, bias, reduction):
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits.flatten(0, 1), torch.randint(0, V, (B * T,)), reduction=reduction)


def token_loss(hidden, weight, bias, reduction):
    labels = torch.randint(0, 2, (B, T))
    return electra_kernels.linear_masked_bce(hidden, weight, bias, labels, reduction=reduction).loss


def eager_token_loss(hidden, weight, bias, reduction):
    logits = F.linear(hidden, weight, bias).squeeze(-1)
    return F.binary_cross_entropy_with_logits(logits, torch.rand(B, T), reduction=reduction)


def step_flops(loss, rows, needs, reduction):
    return count_flops(lambda: loss(*parameters(rows, needs), reduction).sum().backward())


@pytest.mark.parametrize("needs", NEEDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_of_the_generator_head_counts_as_in_eager_torch(reduction, needs):
    expected = step_flops(eager_masked_lm_loss, V, needs, reduction)
    assert expected == LOGITS_FLOPS * (1 + sum(needs))
    assert step_flops(masked_lm_loss, V, needs, reduction) == expected


@pytest.mark.parametrize("needs", NEEDS)
def test_recomputed_logits_are_counted_again(needs):
    assert (
        step_flops(masked_lm_loss, V, needs, "none")
        == step_flops(eager_masked_lm_loss, V, needs, "none") + LOGITS_FLOPS
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_generator_heads_gradients_count_in_the_pass_that_computes_them(reduction):
    with FlopCounterMode(display=False) as forward:
        loss = masked_lm_loss(*parameters(V, (True, True)), reduction)
    with FlopCounterMode(display=False) as backward:
        loss.sum().backward()
    counts = (forward.get_total_flops(), backward.get_total_flops())
    assert counts == ((LOGITS_FLOPS, 3 * LOGITS_FLOPS) if reduction == "none" else (3 * LOGITS_FLOPS, 0))


@pytest.mark.parametrize("needs", NEEDS[:2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_of_the_discriminator_head_counts_as_in_eager_torch(reduction, needs):
    expected = step_flops(eager_token_loss, 1, needs, reduction)
    assert expected == TOKEN_FLOPS * (1 + sum(needs))
    assert step_flops(token_loss, 1, needs, reduction) == expected


def test_the_unreduced_loss_of_the_discriminator_head_counts_as_in_eager_torch():
    needs = (True, True)
    assert (
        step_flops(token_loss, 1, needs, "none")
        == step_flops(eager_token_loss, 1, needs, "none")
        == 3 * TOKEN_FLOPS
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_only_the_logits_count_without_gradients(reduction):
    with torch.no_grad():
        assert count_flops(masked_lm_loss, *parameters(V, (True, True)), reduction) == LOGITS_FLOPS
        assert count_flops(token_loss, *parameters(1, (True, True)), reduction) == TOKEN_FLOPS


def test_the_gradient_of_the_bias_adds_no_flops():
    hidden, weight, bias = parameters(V, (False, False))
    assert (
        count_flops(lambda: masked_lm_loss(hidden, weight, bias.requires_grad_(), "mean").backward())
        == LOGITS_FLOPS
    )


def test_flops_are_attributed_to_the_module():
    head = electra_kernels.nn.GeneratorHead(E, V)
    with FlopCounterMode(display=False) as counter:
        head(torch.randn(B, T, E), torch.randint(0, V, (B, T)))
    op = torch.ops.electra_kernels.linear_cross_entropy_sample
    assert counter.get_flop_counts()["GeneratorHead"] == {op: 2 * LOGITS_FLOPS}


IMPORTS = ["import electra_kernels", "from torch.utils.flop_counter import FlopCounterMode"]
PROGRAM = """
import torch
with FlopCounterMode(display=False) as counter:
    electra_kernels.linear_masked_bce(torch.ones(5, 3), torch.ones(3), None, torch.ones(5))
print(counter.get_total_flops())
"""


@pytest.mark.parametrize("imports", [IMPORTS, IMPORTS[::-1]], ids=["ops first", "counter first"])
def test_flops_are_counted_in_either_import_order(imports):
    program = "\n".join(imports) + PROGRAM
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "30"), done.stderr
