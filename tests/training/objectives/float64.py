"""Losses of the objectives in plain torch, in float64."""

import torch
from torch.nn import functional as F


def log_probabilities(generator, input_ids, attention_mask):
    """[B, T, V] from the hidden states of a `Generator`."""
    hidden = generator.transform(generator.encoder(input_ids, attention_mask))
    return (hidden @ generator.head.weight.T + generator.head.bias).double().log_softmax(-1)


def picked(proposal):
    """The picked positions [B, T]; unused slots are at position 0, which is never picked."""
    flags = torch.zeros_like(proposal.masked.input_ids, dtype=torch.bool)
    flags.scatter_(1, proposal.masked.positions, True)
    flags[:, 0] = False
    return flags


def mlm_loss(proposal, generator, tokens):
    """The generator's loss at the picked positions."""
    log_p = log_probabilities(generator, proposal.masked.input_ids, tokens.attention_mask)
    return F.nll_loss(log_p[picked(proposal)], tokens.input_ids[picked(proposal)])


def assert_same_loss_and_gradients(objective, loss, expected):
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
    parameters = list(objective.parameters())
    ours = torch.autograd.grad(loss, parameters)
    theirs = torch.autograd.grad(expected, parameters)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
