"""`replace_tokens`, `sample_replacements` and `gather_rows`: the row operations at masked positions."""

import pytest
import torch

from electra_kernels import gather_rows, replace_tokens, sample_replacements, sample_tokens

from . import oracle
from .cases import build, skip_unless_values_are_checked
from .oracle import assert_equal


def _ids(*rows, device):
    return torch.tensor(rows, dtype=torch.int64, device=device)


def test_changed_tokens_are_labelled_as_replaced(device):
    ids = _ids([5, 6, 7, 8], [9, 10, 11, 12], device=device)
    replaced = replace_tokens(ids, _ids([3, 0], [1, 2], device=device), _ids([1, 2], [3, 4], device=device))
    assert replaced.input_ids.tolist() == [[2, 6, 7, 1], [9, 3, 4, 12]]
    assert replaced.is_replaced.tolist() == [[True, False, False, True], [False, True, True, False]]
    assert replaced.is_replaced.dtype == torch.bool
    assert ids.tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]], "the input was written to"


def test_a_token_that_equals_the_original_is_labelled_as_original(device):
    ids = _ids([5, 6, 7], device=device)
    replaced = replace_tokens(ids, _ids([1, 2], device=device), _ids([6, 9], device=device))
    assert replaced.input_ids.tolist() == [[5, 6, 9]]
    assert replaced.is_replaced.tolist() == [[False, False, True]]


@pytest.mark.parametrize(("batch", "slots"), [(2, 0), (2, 3), (0, 3)])
def test_rows_of_length_0_stay_empty(device, batch, slots):
    """Their pointers are null, which the sanitizers refuse in memcpy."""
    ids = torch.empty(batch, 0, dtype=torch.int64, device=device)
    nothing = torch.full((batch, slots), -1, device=device)
    replaced = replace_tokens(ids, nothing, nothing)
    assert (replaced.input_ids.shape, replaced.is_replaced.shape) == ((batch, 0), (batch, 0))


@pytest.mark.parametrize("position", [0, 2, -1, 99])
def test_a_negative_token_keeps_the_original_whatever_its_position(device, position):
    ids = _ids([5, 6, 7], device=device)
    replaced = replace_tokens(ids, _ids([0, position], device=device), _ids([9, -1], device=device))
    assert replaced.input_ids.tolist() == [[9, 6, 7]]
    assert replaced.is_replaced.tolist() == [[True, False, False]]


@pytest.mark.parametrize("positions", [[-1], [3], [2**40]])
def test_a_position_out_of_range_is_refused(device, positions):
    skip_unless_values_are_checked(device)
    with pytest.raises(ValueError, match=r"positions\[0, 0\] is .*, should be in \[0, 3\)"):
        replace_tokens(
            _ids([5, 6, 7], device=device), _ids(positions, device=device), _ids([1], device=device)
        )


def test_a_position_used_twice_is_refused(device):
    skip_unless_values_are_checked(device)
    positions, tokens = _ids([0, 1], [2, 2], device=device), _ids([1, 1], [1, 1], device=device)
    with pytest.raises(ValueError, match=r"positions\[1, \d\] is 2, should be used once per row"):
        replace_tokens(_ids([5, 6, 7], [5, 6, 7], device=device), positions, tokens)


@pytest.mark.parametrize("ban_original", [False, True])
def test_sample_replacements_equals_sampling_then_replacing(device, dtype, ban_original):
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
    assert_equal(ours, expected)


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


def test_gather_rows_takes_the_rows_and_scatters_the_gradient(device, dtype):
    hidden = torch.randn(2, 5, 3, device=device).to(dtype).requires_grad_()
    positions = torch.tensor([[4, 0], [2, 2]], device=device)
    rows = gather_rows(hidden, positions)
    assert torch.equal(rows, torch.stack([hidden[0, [4, 0]], hidden[1, [2, 2]]]))
    rows.sum().backward()
    assert hidden.grad.sum(-1).tolist() == [[3, 0, 0, 0, 3], [0, 0, 6, 0, 0]]
