"""Each alarm fires on its fault, once, and on nothing else."""

import math
from dataclasses import replace

import pytest
import torch
from small_language import WORDS

from electra_kernels.data.facts import text_facts
from electra_kernels.data.rows import encode_rows, unigram_counts
from electra_kernels.data.text import Document
from electra_kernels.evaluation.held_out import unigram_entropy
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.log import StepRecord
from electra_kernels.training.objectives import NextSentence, ReplacedTokenDetection, UniformGenerator
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Trainer

HEALTHY = {
    "mlm_loss": 4.0,
    "mlm_accuracy": 0.3,
    "rtd_loss": 0.25,
    "replaced": 0.1,
    "recall": 0.1,
    "gradient_norm": 1.0,
}
FAULTS = {
    "not finite": {"rtd_loss": math.nan},
    "exploding gradient": {"gradient_norm": 30.0},
    "finds nothing": {"recall": 0.0, "rtd_loss": 0.325},
    "guesses the rows": {"row_loss": 0.69},
    "no label": {"labelled": 0.0},
    "generator at the plateau": {"mlm_loss": 6.3},
    "generator too strong": {"mlm_accuracy": 0.9},
    "generator too weak": {"rtd_loss": 0.05},
}


def record(step, metrics):
    """The record of a step of a training of 10,000 steps."""
    return StepRecord(step, 10_000, tokens=0, seconds=0.0, learning_rates={}, metrics=metrics)


def names(monitor, metrics, *, reports=100, start=0):
    """The alarms given during a part of a training of 100 reports."""
    found = []
    for index in range(start, start + reports):
        found += [alarm.name for alarm in monitor.check(record(100 * index, metrics))]
    return found


def test_a_healthy_training_has_no_alarm():
    assert names(Monitor(plateau=6.33), HEALTHY) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_gives_its_alarm_once(name):
    monitor = Monitor(plateau=6.33)
    assert names(monitor, HEALTHY, reports=30) == []
    assert names(monitor, HEALTHY | FAULTS[name], reports=70, start=30) == [name]


@pytest.mark.parametrize(
    "name", ["finds nothing", "guesses the rows", "generator at the plateau", "generator too weak"]
)
def test_a_fault_that_ends_soon_gives_no_alarm(name):
    monitor = Monitor(plateau=6.33)
    for start in range(0, 100, 10):
        assert names(monitor, HEALTHY | FAULTS[name], reports=9, start=start) == []
        assert names(monitor, HEALTHY, reports=1, start=start + 9) == []


def test_a_single_large_gradient_gives_no_alarm():
    monitor, fault = Monitor(), HEALTHY | FAULTS["exploding gradient"]
    assert names(monitor, HEALTHY, reports=30) == []
    assert names(monitor, fault, reports=1, start=30) == []
    assert names(monitor, HEALTHY, reports=30, start=31) == []
    assert names(monitor, fault, reports=2, start=61) == ["exploding gradient"]


def test_low_recall_is_no_fault_while_the_loss_is_below_the_base_rate():
    """The entropy of a share of 0.1 is 0.3251 nats."""
    assert names(Monitor(), HEALTHY | {"recall": 0.0, "rtd_loss": 0.32}) == []


def test_the_loss_of_the_rows_is_noisy_and_counts_as_a_mean():
    """Around ln 2 a training is stuck although some reports are below 0.99 ln 2 = 0.686; around 0.68 it learns."""

    def alarms(mean):
        monitor = Monitor()
        losses = (mean + (-1) ** index * 0.02 for index in range(100))
        return [
            a.name
            for i, loss in enumerate(losses)
            for a in monitor.check(record(100 * i, {"row_loss": loss}))
        ]

    assert alarms(math.log(2)) == ["guesses the rows"]
    assert alarms(0.68) == []


def test_an_objective_may_lack_metrics():
    assert names(Monitor(plateau=6.33), {"row_loss": 0.68}) == []


def test_without_a_plateau_there_is_no_alarm_about_it():
    assert names(Monitor(), HEALTHY | {"mlm_loss": 9.0}) == []


def test_an_alarm_says_when_and_what_to_try():
    monitor = Monitor()
    (alarm,) = monitor.check(record(1_230, {"rtd_loss": math.inf}))
    assert str(alarm).startswith("alarm at step 1,230: a loss is NaN or infinite")
    assert "learning rate" in str(alarm)


# ---- trainings that are made to fail ----


def alarms(objective, rows, counts, *, learning_rate, steps=60):
    monitor = Monitor(unigram_entropy(rows, counts))
    found = []
    recipe = Recipe(length=16, batch_size=8, learning_rate=learning_rate, warmup=0.1, steps=steps, clip=None)
    for record in Trainer(objective, recipe, one_phase(16, steps), seed=3).train([rows]):
        found += monitor.check(record)
    return {alarm.name for alarm in found}


@pytest.fixture
def electra(electra_config, facts):
    torch.manual_seed(0)
    return ReplacedTokenDetection(electra_config, facts)


def test_a_learning_rate_far_too_high_makes_numbers_that_are_not_finite(electra, rows, counts):
    assert "not finite" in alarms(electra, rows, counts, learning_rate=1e20)


def test_a_learning_rate_far_too_low_leaves_the_generator_at_the_plateau(electra, rows, counts):
    assert alarms(electra, rows, counts, learning_rate=1e-6, steps=100) == {"generator at the plateau"}


def test_an_untrained_discriminator_finds_nothing(electra_config, facts, rows, counts):
    """The bias of its head gives the majority class from the start, and rtd_weight is 0."""
    objective = ReplacedTokenDetection(replace(electra_config, rtd_weight=0.0), facts)
    with torch.no_grad():
        objective.model.discriminator.head.bias.fill_(-3.0)
    assert "finds nothing" in alarms(objective, rows, counts, learning_rate=3e-3)


def test_a_loss_that_grows_a_thousandfold_explodes_the_gradient(electra_config, facts, rows, counts):
    class Growing(ReplacedTokenDetection):
        def forward(self, batch, progress, counts=None):
            loss, metrics = super().forward(batch, progress, counts)
            return loss * (1_000 if progress > 0.9 else 1), metrics

    assert "exploding gradient" in alarms(
        Growing(electra_config, facts), rows, counts, learning_rate=3e-3, steps=200
    )


def test_a_text_without_choices_makes_the_generator_too_strong(tokenizer, electra_config):
    """The text repeats one word."""
    documents = [Document("same", (" ".join(WORDS[:1] * 14),) * 50)]
    rows = encode_rows(documents, tokenizer, 16)
    counts = unigram_counts(rows, tokenizer.get_vocab_size())
    objective = ReplacedTokenDetection(electra_config, text_facts(tokenizer, counts))
    assert "generator too strong" in alarms(objective, rows, counts, learning_rate=1e-2, steps=100)


def test_a_text_of_one_document_has_no_foreign_second_part(tokenizer, electra_config, documents):
    paragraphs = tuple(paragraph for document in documents for paragraph in document.paragraphs)
    rows = encode_rows([Document("one", paragraphs)], tokenizer, 16)
    counts = unigram_counts(rows, tokenizer.get_vocab_size())
    objective = NextSentence(electra_config, text_facts(tokenizer, counts))
    assert alarms(objective, rows, counts, learning_rate=1e-3) == {"no label"}


def test_uniform_replacements_make_a_generator_too_weak(electra_config, facts, rows, counts):
    objective = UniformGenerator(electra_config, facts)
    assert alarms(objective, rows, counts, learning_rate=5e-3, steps=200) == {"generator too weak"}


def test_a_training_that_goes_well_has_no_alarm_of_failure(electra, rows, counts):
    assert not alarms(electra, rows, counts, learning_rate=1e-2, steps=200) & {
        "not finite",
        "exploding gradient",
        "generator too strong",
        "generator too weak",
    }
