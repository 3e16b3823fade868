import torch

from electra_kernels.models.unigram import Unigram
from electra_kernels.pretraining import pair
from electra_kernels.pretraining.budget import Budget


def test_both_sides_start_from_the_same_encoder(counts):
    per_token, per_row = pair.make_pair(counts.numel(), Unigram(counts), seed=5)
    ours, theirs = per_token.model.encoder.state_dict(), per_row.encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_pair_learns_side_by_side_and_is_repeatable(rows, held_out, counts):
    def run():
        reports = []
        result = pair.train_pair(
            rows,
            held_out,
            counts.numel(),
            Budget(24),
            seed=0,
            report=lambda step, fraction, figures: reports.append((step, fraction)),
        )
        return result, reports

    result, reports = run()
    assert result["steps"] == 24
    assert reports[-1] == (24, 1.0)
    assert [step for step, _ in reports] == [point["step"] for point in result["curve"]]
    assert set(result["probe"]) == {"per_token", "per_row"}
    assert all(0 <= value <= 1 for value in result["probe"].values())
    assert result == run()[0]
