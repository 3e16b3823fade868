"""`benchmarks.parity`: its differences are small, and are not when a weight differs."""

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification

from benchmarks import parity
from electra_kernels.models import CONFIGURATIONS, Electra, save_transformers


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_agrees_with_transformers_in_both_directions(name, tmp_path):
    table = dict(parity.compare(name, tmp_path))
    assert list(table) == ["written", "read"]
    assert max(value for columns in table.values() for pair in columns for value in pair) <= 1e-5
    assert parity.sentence_difference(tmp_path / "written" / "discriminator") <= 1e-5


def test_a_changed_weight_shows_in_every_column(tmp_path):
    torch.manual_seed(0)
    ours = parity.moved(Electra(parity.shrunk("modern-small")))
    save_transformers(ours, tmp_path)
    classes = (AutoModelForTokenClassification, AutoModelForMaskedLM)
    theirs = [kind.from_pretrained(tmp_path / part).eval() for part, kind in zip(parity.PARTS, classes)]
    for model in theirs:
        model.base_model.layers[3].mlp.Wi.weight.data.mul_(1.1)
    columns = parity.differences(ours, theirs)
    assert min(value for pair in columns for value in pair) > 1e-4
