"""`benchmarks.predicted_runs` against PyTorch's own counts."""

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from benchmarks import predicted_runs
from benchmarks.predicted_runs import MACHINES, Machine, predict
from electra_kernels.models import Electra, electra_config
from electra_kernels.models.attention import Layout
from electra_kernels.models.electra_layers import ElectraLayer as Layer
from electra_kernels.training.hardware import step_flops


def small(layers, vocab_size=1_000):
    config = electra_config("small", vocab_size=vocab_size, mask_token_id=3)
    parts = {
        name: replace(getattr(config, name), num_hidden_layers=layers)
        for name in ("generator", "discriminator")
    }
    return replace(config, **parts)


def test_flops_agree_with_pytorchs_counter():
    config, length = small(2), 64
    model, ids = Electra(config), torch.randint(10, 1_000, (4, length))
    counted = step_flops(lambda: model(ids, None, torch.ones_like(ids)).loss.backward())
    predicted = predicted_runs.flops_per_token(config, length) * ids.numel()
    # The counter leaves out the gradient that no embedding needs, and counts scores that attention computes again.
    assert predicted == pytest.approx(counted, rel=0.05)


def test_a_layer_keeps_as_many_bytes_as_predicted():
    config = replace(small(1).discriminator, dropout=0.0)
    layer, hidden = Layer(config), torch.randn(2, 32, config.hidden_size, requires_grad=True)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(hidden, Layout(), None, True).sum().backward()
    weights = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    activations = sum(size for pointer, size in kept.items() if pointer not in weights)
    predicted = predicted_runs.layer_bytes(config.hidden_size, half=4, dropout=False) * 2 * 32
    assert activations == pytest.approx(predicted, rel=0.03)


def test_eight_gpus_share_the_rows_of_a_step():
    one, eight, _ = MACHINES
    assert predict("large", eight).run_seconds == pytest.approx(predict("large", one).run_seconds / 8)


def test_a_narrow_model_cannot_be_faster_than_its_launches():
    thousand = replace(MACHINES[0], count=128)
    assert predict("small", thousand).step_seconds == pytest.approx(24 * 80 * 5e-6)


def test_recomputed_layers_need_less_memory_and_rows_fit():
    for name in ("small", "base", "large"):
        for machine in MACHINES:
            each = predict(name, machine)
            assert each.checkpointed_row < each.row / 4
            assert each.peak < machine.memory


def test_unknown_gpus_and_too_little_memory_are_refused():
    with pytest.raises(ValueError, match="'abacus'"):
        predict("small", Machine("abacus", "abacus", 1e12))
    with pytest.raises(ValueError, match="should be at least 1"):
        predict("large", Machine("tiny", "NVIDIA L4", 4e9))


def test_the_table_has_a_row_for_every_run():
    lines = list(predicted_runs.table())
    assert len(lines) == 2 + 3 * len(MACHINES)
    assert len({line.count("|") for line in lines}) == 1
