"""Rules for every objective: its interface, its initial weights, a loss that falls, no trace of an evaluation."""

import copy
from dataclasses import replace

import pytest
import torch

from electra_kernels.data.facts import TextFacts, text_facts
from electra_kernels.data.rows import Rows, spread
from electra_kernels.evaluation.held_out import evaluate_objective
from electra_kernels.models import Encoder
from electra_kernels.training.objectives import OBJECTIVES, CorruptedTokens, token_batch
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Budget
from electra_kernels.training.trainer import Trainer, train

CPU = torch.device("cpu")
LENGTH, WORDS = 16, 12
RECIPE = Recipe(length=LENGTH, batch_size=32, learning_rate=5e-3, warmup=0.1, steps=20, clip=None)


@pytest.fixture(params=OBJECTIVES)
def name(request):
    return request.param


@pytest.fixture
def make(name, electra_config, sentences):
    """The objective, the same one at every call."""

    def make(tie="all"):
        generator = None if tie == "all" else replace(electra_config.discriminator, num_hidden_layers=1)
        config = replace(electra_config, generator=generator, tie=tie)
        torch.manual_seed(0)
        return OBJECTIVES[name](config, sentences[1])

    return make


@pytest.fixture(scope="module")
def sentences(rows, facts):
    """Rows in which every objective has something to learn: sentences that count up, in one of two languages.

    A sentence has four words and a stop, and continues where the last one ended; documents differ in their words.
    """
    generator = torch.Generator().manual_seed(0)
    stop, first, count = 5, 6, 512
    start = torch.randint(WORDS, (count, 1), generator=generator)
    place = torch.arange(LENGTH - 2)
    words = first + (start + place) % WORDS + WORDS * (torch.arange(count) % 2)[:, None]
    text = words.masked_fill(place % 5 == 4, stop)
    special = facts.special_ids
    ends = [torch.full((count, 1), index) for index in (special.cls, special.sep)]
    ids = torch.cat([ends[0], text, ends[1]], 1)
    counts = torch.bincount(text.flatten(), minlength=len(facts.counts))
    return Rows(ids, torch.arange(count), special), TextFacts(counts, special, torch.tensor([stop]))


def test_every_objective_has_the_same_interface(make, name, sentences):
    objective = make()
    assert objective.name == name
    assert objective.per in ("token", "row")
    assert all((objective.labels, objective.detects, objective.cannot_detect))
    loss, metrics = objective(objective.batch(token_batch(sentences[0], torch.arange(32), CPU)), 1.0)
    assert loss.shape == ()
    assert tuple(metrics) == objective.metrics
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


@pytest.mark.parametrize("tie", ["all", "embeddings", "none"])
def test_initial_weights_can_be_copied_into_the_encoder(make, tie, sentences):
    initial = Encoder(make().config.discriminator).state_dict()
    objective = make(tie)
    objective.encoder.load_state_dict(initial)
    batch = objective.batch(token_batch(sentences[0], torch.arange(8), CPU))
    objective(batch, 1.0)[0].backward()
    assert all(torch.equal(value, initial[key]) for key, value in objective.encoder.state_dict().items())
    assert all(parameter.grad is not None for parameter in objective.parameters())
    shared = [m for m in objective.modules() if m is objective.encoder.embeddings.word]
    assert len(shared) == 1


def test_training_is_repeatable_and_an_evaluation_leaves_no_trace(make, sentences):
    rows, curves = sentences[0], []
    few = spread(rows, 64)
    for evaluated in (False, True):
        objective, curve = make(), []

        def record(state, objective=objective, curve=curve, evaluated=evaluated):
            curve.append(dict(state.metrics))
            if evaluated:
                assert evaluate_objective(objective, few).keys() == set(objective.metrics)

        train(objective, rows, RECIPE, Budget(RECIPE.steps), seed=3, report=record)
        curves.append(curve)
    assert len(curves[0]) == 2
    assert curves[0] == curves[1]


def test_the_loss_falls(make, sentences):
    """On 16 rows, so few that one label per row suffices. Masks and replacements are new at every step."""
    objective = make()
    trainer = Trainer(objective, RECIPE)
    torch.manual_seed(0)
    batch = objective.batch(token_batch(sentences[0], torch.arange(16), CPU))
    name = [metric for metric in objective.metrics if metric.endswith("_loss")][
        -1
    ]  # a generator's comes first
    losses = [float(trainer.step(batch, 0.3)[1][name]) for _ in range(40)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_a_token_batch_holds_the_rows_of_its_index(rows):
    index = torch.tensor([5, 2])
    batch = token_batch(rows, index, CPU)
    assert torch.equal(batch.input_ids, rows.input_ids[index])
    assert torch.equal(batch.attention_mask, rows.attention_mask[index])
    assert torch.equal(batch.maskable, rows.maskable[index])
    assert torch.equal(batch.document, rows.document[index])


def test_text_facts_know_sentence_ends_and_continuations(tokenizer, counts):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["!", "."])
    facts = text_facts(tokenizer, counts)
    assert sorted(map(tokenizer.id_to_token, facts.sentence_ends.tolist())) == ["!", "."]
    pieces = [tokenizer.id_to_token(index) for index in facts.continuations]
    assert sorted(pieces) == sorted(piece for piece in tokenizer.get_vocab() if piece.startswith("##"))
    assert pieces
    assert facts.special_ids.mask == 4


def test_metrics_of_held_out_rows_are_means_over_rows(rows, held_out, electra_config, facts):
    class Lengths(CorruptedTokens):
        metrics = ("length", "rows")

        def forward(self, batch, progress):
            assert progress == 1.0
            assert not self.training
            lengths = batch.attention_mask.sum(-1).float()
            return lengths.sum(), {"length": lengths.mean(), "rows": torch.tensor(float(len(lengths)))}

    figures = evaluate_objective(Lengths(electra_config, facts), held_out)
    assert figures["length"] == pytest.approx(held_out.attention_mask.sum(-1).float().mean().item())
    assert figures["rows"] <= 64
