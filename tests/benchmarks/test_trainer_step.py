"""`benchmarks.trainer_step` with one layer, and its plain pair of models."""

import re

import pytest
import torch
import transformers

from benchmarks import trainer_step


def test_all_three_variants_are_timed(capsys):
    trainer_step.main("--layers 1 --batch-size 2 --length 16 --steps 3".split())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["plain", "gathered", "ours"]
    assert "1.00 of plain" in lines[0]
    for line in lines:
        found = re.search(r"(\d+\.\d+) s a step \(median of 2\).*peak +(\d+) MiB, (\d+) of them before", line)
        seconds, peak, before = map(float, found.groups())
        assert seconds > 0
        assert 50 < before <= peak


@pytest.mark.parametrize("gathered", [False, True])
def test_the_plain_pair_trains_both_models(gathered):
    config = transformers.ElectraConfig(
        vocab_size=300, embedding_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    models = transformers.ElectraForMaskedLM(config), transformers.ElectraForPreTraining(config)
    pair = trainer_step.PlainPair(*models, gathered=gathered).eval()
    ids = torch.randint(104, 300, (4, 32))
    torch.manual_seed(0)
    loss = pair(ids, torch.ones_like(ids), ids)["loss"]
    loss.backward()
    assert all(parameter.grad is not None for name, parameter in pair.named_parameters())
    torch.manual_seed(0)
    pair.gathered = not gathered
    torch.testing.assert_close(pair(ids, torch.ones_like(ids), ids)["loss"], loss)
