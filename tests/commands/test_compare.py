"""The options of compare: one value or a list with commas."""

import pytest

from electra_kernels.commands import main as cli


def parsed(*options):
    return cli.command_line().parse_args(["compare", *options])


def test_the_default_is_one_budget_with_three_seeds():
    options = parsed()
    assert (options.tokens, options.seconds, options.seeds) == ([1_000_000], None, [3])


def test_budgets_and_their_seeds_are_lists():
    options = parsed("--tokens", "300000,1000000", "--seeds", "3,2")
    assert (options.tokens, options.seeds) == ([300_000, 1_000_000], [3, 2])


@pytest.mark.parametrize(
    "option, value, reason",
    [
        ("--tokens", "300000,", "invalid list of int value: '300000,'"),
        ("--tokens", "1000,x", "invalid list of int value: '1000,x'"),
        ("--tokens", "1000,0", "0 should be a finite number above 0"),
        ("--seeds", "3,2000", "2000 should be a finite number above 0, at most 1,000"),
    ],
)
def test_a_list_with_a_wrong_part_is_refused(option, value, reason, capsys):
    with pytest.raises(SystemExit):
        parsed(option, value)
    assert f"argument {option}: {reason}" in capsys.readouterr().err


def test_a_budget_and_seconds_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        parsed("--tokens", "1000", "--seconds", "3")
    assert "--seconds: not allowed with argument --tokens" in capsys.readouterr().err
