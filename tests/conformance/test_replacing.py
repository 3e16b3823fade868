"""Replacing tokens and labelling what changed."""

import pytest
import torch

from electra_kernels import replace_tokens, sample_replacements, sample_tokens

from . import oracle
from .cases import build


def _ids(*rows, device):
    return torch.tensor(rows, dtype=torch.int64, device=device)


def test_what_changed_is_labelled_replaced(device):
    ids = _ids([5, 6, 7, 8], [9, 10, 11, 12], device=device)
    replaced = replace_tokens(ids, _ids([3, 0], [1, 2], device=device), _ids([1, 2], [3, 4], device=device))
    assert replaced.input_ids.tolist() == [[2, 6, 7, 1], [9, 3, 4, 12]]
    assert replaced.is_replaced.tolist() == [[True, False, False, True], [False, True, True, False]]
    assert replaced.is_replaced.dtype == torch.bool
    assert ids.tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]], "the input is not written to"


def test_a_token_that_equals_the_original_is_labelled_original(device):
    ids = _ids([5, 6, 7], device=device)
    replaced = replace_tokens(ids, _ids([1, 2], device=device), _ids([6, 9], device=device))
    assert replaced.input_ids.tolist() == [[5, 6, 9]]
    assert replaced.is_replaced.tolist() == [[False, False, True]]


@pytest.mark.parametrize("position", [0, 2, -1, 99])
def test_a_negative_token_keeps_the_original_whatever_its_position(device, position):
    ids = _ids([5, 6, 7], device=device)
    replaced = replace_tokens(ids, _ids([0, position], device=device), _ids([9, -1], device=device))
    assert replaced.input_ids.tolist() == [[9, 6, 7]]
    assert replaced.is_replaced.tolist() == [[True, False, False]]


@pytest.mark.parametrize("positions", [[-1], [3], [2**40]])
def test_a_position_out_of_range_is_refused(device, positions):
    if device.type != "cpu":
        pytest.skip("values are read on the CPU alone, as reading them elsewhere would synchronise")
    with pytest.raises(ValueError, match=r"positions\[0, 0\] is .*, should be in \[0, 3\)"):
        replace_tokens(
            _ids([5, 6, 7], device=device), _ids(positions, device=device), _ids([1], device=device)
        )


def test_a_position_used_twice_is_refused(device):
    if device.type != "cpu":
        pytest.skip("values are read on the CPU alone, as reading them elsewhere would synchronise")
    positions, tokens = _ids([0, 1], [2, 2], device=device), _ids([1, 1], [1, 1], device=device)
    with pytest.raises(ValueError, match=r"positions\[1, \d\] is 2, should be used once per row"):
        replace_tokens(_ids([5, 6, 7], [5, 6, 7], device=device), positions, tokens)


@pytest.mark.parametrize("ban_original", [False, True])
def test_sample_replacements_is_the_two_ops_in_one(device, dtype, ban_original):
    case = build("sample_replacements", device, dtype, batch=4, slots=5)
    targets, tensors = case.tensors["targets"], case.tensors
    ours = case(ban_original=ban_original, temperature=0.8)
    banned = targets if ban_original else None
    tokens, _ = sample_tokens(tensors["logits"], temperature=0.8, banned=banned, uniforms=tensors["uniforms"])
    used = targets >= 0
    oracle.assert_drawn(
        tokens[used],
        tensors["logits"][used],
        tensors["uniforms"][used],
        temperature=0.8,
        banned=targets[used] if ban_original else None,
    )
    expected = replace_tokens(tensors["input_ids"], tensors["positions"], tokens.where(used, -1))
    assert torch.equal(ours.input_ids, expected.input_ids)
    assert torch.equal(ours.is_replaced, expected.is_replaced)


def test_a_banned_original_is_always_replaced(device):
    ids = torch.arange(8, device=device).repeat(3, 1)
    positions = _ids([0, 4], [7, 1], [2, 3], device=device)
    targets = ids.gather(1, positions)
    logits = torch.zeros(3, 2, 8, device=device).scatter(2, targets[..., None], 30.0)
    replaced = sample_replacements(logits, ids, positions, targets, ban_original=True)
    expected = torch.zeros_like(ids, dtype=torch.bool).scatter(1, positions, True)
    assert torch.equal(replaced.is_replaced, expected)


def test_a_bad_row_of_logits_keeps_the_original(device):
    ids = torch.arange(8, device=device).repeat(3, 1)
    logits = torch.zeros(3, 1, 600, device=device)
    logits[0, 0, 5], logits[1, 0, 5], logits[2] = torch.nan, torch.inf, -torch.inf
    positions = _ids([1], [2], [3], device=device)
    replaced = sample_replacements(logits, ids, positions, positions)
    assert torch.equal(replaced.input_ids, ids)
    assert not replaced.is_replaced.any()


def test_sample_replacements_has_no_gradient(device):
    case = build("sample_replacements", device)
    logits = case.tensors["logits"].clone().requires_grad_()
    assert not any(output.requires_grad for output in case.outputs(logits=logits))
