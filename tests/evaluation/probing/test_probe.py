import copy
import math
import pickle
import sys

import pytest
import torch
from torch import nn

from electra_kernels.evaluation.held_out import standard_error
from electra_kernels.evaluation.probing import TASKS, probe
from electra_kernels.evaluation.probing.logistic import logistic_regression
from electra_kernels.models import Encoder, EncoderConfig

# The function has the name of its module.
probing = sys.modules[probe.__module__]


@pytest.fixture(params=list(TASKS))
def task(request, all_tasks):
    return all_tasks[request.param]


@pytest.fixture
def encoder(tokenizer):
    torch.manual_seed(0)
    return Encoder(EncoderConfig(tokenizer.get_vocab_size(), 16, 16, 1, 2, 32, initializer_range=0.2))


class AnswerEncoder(nn.Module):
    """An encoder of the rows of a task whose state of a token is the answer."""

    def __init__(self, task):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.table = {}
        for part in (task.train, task.test):
            labels = part.labels if task.per == "token" else part.labels[:, None].expand(part.input_ids.shape)
            self.table |= {
                tuple(ids[mask].tolist()): label[mask].float()
                for ids, mask, label in zip(part.input_ids, part.attention_mask, labels)
            }

    def forward(self, input_ids, attention_mask):
        states = torch.zeros(*input_ids.shape, 3)
        for state, ids, mask in zip(states, input_ids, attention_mask):
            state[mask, 1] = self.table[tuple(ids[mask].tolist())]
        return states * self.scale


class Noise(nn.Module):
    """An encoder whose states do not depend on the input."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, input_ids, attention_mask):
        return torch.randn(*input_ids.shape, 8) * self.scale


@pytest.mark.parametrize("frozen", [True, False])
def test_an_encoder_that_knows_the_answer_has_a_perfect_figure(task, frozen, monkeypatch):
    monkeypatch.setattr(probing, "STEPS", 5)
    assert probe(AnswerEncoder(task), task, frozen=frozen, seed=0) == 1.0


def test_an_encoder_that_knows_nothing_is_at_chance(task):
    answers = task.test.answers()
    positives = int(answers.sum())
    if task.metric == "accuracy":
        error = math.sqrt(0.25 / len(answers))
    else:
        error = standard_error(positives, len(answers) - positives)
    assert abs(probe(Noise(), task, frozen=True, seed=0) - 0.5) < 4 * error


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("training", "gradients"), [(True, False), (False, True)])
def test_a_probe_leaves_no_trace(encoder, task, frozen, training, gradients, monkeypatch):
    monkeypatch.setattr(probing, "STEPS", 3)
    encoder.train(training)
    before, random = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    with torch.set_grad_enabled(gradients):
        figure = probe(encoder, task, frozen=frozen, seed=0)
        assert torch.is_grad_enabled() == gradients
    assert 0 < figure < 1
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training == training for module in encoder.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_the_same_seed_gives_the_same_figure(encoder, task, monkeypatch):
    monkeypatch.setattr(probing, "STEPS", 10)
    figures = []
    for seed in (0, 0, 1):
        torch.rand(7)
        figures.append(probe(encoder, task, frozen=False, seed=seed))
    assert figures[0] == figures[1] != figures[2]
    assert probe(encoder, task, frozen=True, seed=0) == probe(encoder, task, frozen=True, seed=1)


def test_fine_tuning_trains_an_encoder_whose_own_weights_are_fixed(encoder, task, monkeypatch):
    """A fine-tuned encoder learns what a frozen probe cannot see: here the answers of the training part itself."""
    monkeypatch.setattr(probing, "STEPS", 30)
    encoder.requires_grad_(False)
    model, head = probing._fine_tune(encoder, probing._fit(encoder, task), task, 0)
    changed = [
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value, encoder.state_dict()[name])
    ]
    assert "layers.0.attention.qkv.weight" in changed
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    losses = [_loss(*pair, task) for pair in ((encoder, probing._fit(encoder, task)), (model, head))]
    assert losses[1] < losses[0]


def _loss(encoder, head, task):
    def score(input_ids, attention_mask):
        return probing.features(encoder, task.per, input_ids, attention_mask) @ head.weight + head.bias

    with torch.no_grad():
        logits = task.train.values(score)
    return float(nn.functional.binary_cross_entropy_with_logits(logits, task.train.answers().float()))


def test_no_row_is_used_again_before_all_have_been_used(task, monkeypatch):
    count = len(task.train.input_ids)
    steps = 2 * count // probing.BATCH_ROWS
    monkeypatch.setattr(probing, "STEPS", steps)
    batches = probing._batches(task.train)
    assert len(batches) == steps
    rows = [tuple(ids[ids != 0].tolist()) for batch in batches for ids in batch.input_ids]
    assert len(rows) == steps * probing.BATCH_ROWS
    assert len(set(rows[:count])) == len({tuple(ids[ids != 0].tolist()) for ids in task.train.input_ids})


def test_padding_has_no_effect(encoder, task):
    """The features of a row do not depend on the rows beside it."""
    rows = task.test.select(torch.tensor([0, len(task.test.input_ids) - 1]))
    assert not rows.attention_mask[0].all()
    alone = task.test.select(slice(0, 1))
    together, single = (
        probing.features(encoder.eval(), task.per, part.input_ids, part.attention_mask)[0]
        for part in (rows, alone)
    )
    if task.per == "token":
        together = together[: alone.input_ids.shape[1]]
    torch.testing.assert_close(together, single)


def test_logistic_regression_reaches_its_minimum_and_stays_finite_for_separable_labels():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 6, generator=generator)
    labels = features[:, 0] + torch.randn(500, generator=generator) > 0.5
    weight, bias = (part.double().requires_grad_() for part in logistic_regression(features.mv, 6, labels))
    logits = features.double() @ weight + bias
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum")
    (loss + weight.square().sum() / 2).backward()
    assert weight.grad.abs().max() < 0.05
    assert bias.grad.abs() < 0.05
    weight, _ = logistic_regression(features.mv, 6, features[:, 0] > 0)
    assert weight.isfinite().all()


def test_a_task_can_be_sent_to_another_process(task, encoder):
    sent = pickle.loads(pickle.dumps(task))
    assert probe(encoder, sent, frozen=True, seed=0) == probe(encoder, task, frozen=True, seed=0)
