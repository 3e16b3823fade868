from dataclasses import replace

import torch

from electra_kernels.data.rows import batches
from electra_kernels.evaluation import pair
from electra_kernels.training.objectives import token_batch
from electra_kernels.training.schedule import Budget
from electra_kernels.training.trainer import Trainer

CPU = torch.device("cpu")


def test_both_sides_are_one_module_with_the_same_weights(facts):
    per_token, per_row = pair.make_pair(facts, 5, CPU)
    ours, theirs = per_token.model.state_dict(), per_row.model.state_dict()
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
            device=CPU,
            report=lambda step, fraction, figures: reports.append((step, fraction)),
        )
        return result, reports

    result, reports = run()
    assert result["steps"] == 24
    assert reports[-1] == (24, 1.0)
    assert [step for step, _ in reports] == [point["step"] for point in result["curve"]]
    assert set(result["probe"]) == {"per_token", "per_row", "untrained"}
    assert all(0 <= value <= 1 for value in result["probe"].values())
    assert result == run()[0]


def test_a_label_per_row_can_be_learned(rows, counts, facts):
    """What the pair compares with is a side that learns where the error is plain: one word the text never has."""
    strange = (torch.arange(counts.numel()) == counts.argmin()).long()
    _, per_row = pair.make_pair(replace(facts, counts=strange), 0, CPU)
    trainer = Trainer(per_row, pair.PER_ROW)
    losses = []
    for step, index in zip(range(120), batches(rows, 32, 0)):
        _, metrics = trainer.step(per_row.batch(token_batch(rows, index, CPU)), step / 120)
        losses.append(float(metrics["row_loss"]))
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])
