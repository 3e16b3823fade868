"""`benchmarks.trial` on a few lines of text."""

import dataclasses
import random

import pytest

from benchmarks import trial
from electra_kernels.data.text import Corpus, Document
from electra_kernels.training.recipe import RECIPES

WORDS = (
    "the old cat, a small dog, our house while their rain fell on every green hill there of that land".split()
)


@pytest.fixture
def small(monkeypatch):
    chance = random.Random(0)

    def documents(count):
        lines = [tuple(" ".join(chance.choices(WORDS, k=30)) for _ in range(4)) for _ in range(count)]
        return [Document(f"{count}#{index}", line) for index, line in enumerate(lines)]

    corpus = Corpus(documents(40), documents(8), 0.0)
    monkeypatch.setattr(trial, "_corpus", lambda: corpus)
    monkeypatch.setitem(RECIPES, "demo", dataclasses.replace(RECIPES["demo"], vocab_size=200))


def test_only_the_named_values_differ_from_the_demo():
    changed = trial.changes(["electra.rtd_weight=7", "encoder.bias=true", "recipe.clip=null"])
    assert changed == {
        "recipe": {"clip": None},
        "encoder": {"bias": True},
        "generator": {},
        "electra": {"rtd_weight": 7},
    }
    config = trial._config(changed, 200, 4)
    assert (config.rtd_weight, config.discriminator.bias, config.tie) == (7, True, "all")
    assert config.mask_probability == 0.3


def test_a_generator_of_its_own_differs_only_in_the_named_values():
    config = trial._config(trial.changes(["generator.num_hidden_layers=1"]), 200, 4)
    assert config.tie == "embeddings"
    assert config.generator == dataclasses.replace(config.discriminator, num_hidden_layers=1)


@pytest.mark.parametrize("number", ["rtd_weight=7", "model.x=1", "electra.rtd_weight", "electra.=3"])
def test_a_malformed_change_is_named_in_the_error(number):
    with pytest.raises(SystemExit, match=r"should be GROUP\.NAME=VALUE"):
        trial.changes([number])


def test_a_trial_trains_and_evaluates(small, capsys):
    numbers = ["encoder.num_hidden_layers=1", "recipe.steps=50"]
    figures = trial.trial(trial.changes(numbers), minutes=None, seed=0)
    assert len(figures["points"]) == trial.EVALUATIONS
    assert figures["points"][-1]["mlm_loss"] < figures["points"][0]["mlm_loss"]
    assert 0 < figures["real_word_errors"]["auc"] < 1
    assert capsys.readouterr().out.count("AUC random") == trial.EVALUATIONS
