"""What follows from the options before the data is read: objective, recipe, schedule and identity of the run."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from electra_kernels.commands.run_options import (
    Options,
    asked_schedule,
    check_options,
    identity_of,
    objective_class,
    recipe_of,
    row_lengths,
)
from electra_kernels.errors import UserError
from electra_kernels.training.objectives import OBJECTIVES, ReplacedTokenDetectionMasked, token_batch
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from electra_kernels.training.recipe import RECIPES
from electra_kernels.training.schedule import parse_schedule

OPTIONS = Options(Path("out"))
PAIR = replace(OPTIONS, generator=Path("g"), discriminator=Path("d"))
CACHE = SimpleNamespace(meta={"digest": "0123"})
DEMO = RECIPES["demo"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_found_by_its_name(name):
    assert objective_class(replace(OPTIONS, objective=name)) is OBJECTIVES[name]


def test_models_of_transformers_are_an_objective_of_their_own():
    assert objective_class(PAIR) is TransformersPair


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (replace(OPTIONS, objective="none"), "--objective is none, should be one of replaced_tokens, "),
        (replace(PAIR, discriminator=None), "--generator and --discriminator should be given together"),
        (replace(PAIR, generator=None), "--generator and --discriminator should be given together"),
        (
            replace(PAIR, objective="masked_lm"),
            "--objective is masked_lm, should be left out with --generator",
        ),
        (
            replace(OPTIONS, objective="masked_lm", pair_minutes=1.0),
            "--pair-minutes is given with the objective masked_lm, should be left out",
        ),
        (replace(PAIR, pair_minutes=1.0), "--pair-minutes is given with the objective"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said):
    with pytest.raises(UserError) as error:
        objective_class(options)
    assert said in str(error.value)


DATA = replace(OPTIONS, data=Path("d"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (replace(OPTIONS, embeddings="separate"), "--embeddings has no effect on the reference models"),
        (
            replace(PAIR, dropout=0.0),
            "--dropout has no effect on models of transformers, whose config.json",
        ),
        (
            replace(PAIR, whole_word_masking=True),
            "--whole-word-masking has no effect on the objective transformers",
        ),
        (replace(PAIR, max_ngram=2), "--max-ngram has no effect on the objective transformers_pair"),
        (
            replace(OPTIONS, objective="sentence_order", whole_word_masking=True),
            "--whole-word-masking has no effect on the objective sentence_order, should be left out",
        ),
        (
            replace(DATA, vocabulary=Path("v")),
            "--vocabulary has no effect on --data, which is prepared already",
        ),
        (replace(DATA, vocab_size=99), "--vocab-size has no effect on --data"),
        (replace(DATA, cased=True), "--cased has no effect on --data"),
        (replace(DATA, keep_accents=False), "--keep-accents has no effect on --data"),
        (replace(DATA, wrapped=True), "--wrapped has no effect on --data"),
        (replace(DATA, field="body"), "--field has no effect on --data"),
        (replace(OPTIONS, objective="none"), "--objective is none, should be one of"),
    ],
)
def test_an_option_without_effect_is_refused(options, said):
    with pytest.raises(UserError) as error:
        check_options(options)
    assert said in str(error.value)


def test_options_that_have_an_effect_are_accepted():
    for options in (
        OPTIONS,
        replace(PAIR, embeddings="separate"),
        replace(OPTIONS, dropout=0.0, cased=True),
        DATA,
    ):
        check_options(options)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_masking_is_accepted_by_the_objectives_that_mask(name, electra_config, facts, rows):
    objective = OBJECTIVES[name](electra_config, facts)
    is_masking = hasattr(
        objective.batch(token_batch(rows, torch.arange(4), torch.device("cpu")), 0), "masked"
    )
    assert OBJECTIVES[name].masks == is_masking
    options = replace(OPTIONS, objective=name, whole_word_masking=True, max_ngram=2)
    with (
        nullcontext() if is_masking else pytest.raises(UserError, match="--whole-word-masking has no effect")
    ):
        check_options(options)


def test_the_pair_of_labels_is_part_of_every_report_on_replaced_tokens():
    options = replace(OPTIONS, objective=ReplacedTokenDetectionMasked.name, pair_minutes=1.0)
    assert objective_class(options) is ReplacedTokenDetectionMasked


def rates(recipe):
    return recipe.learning_rate, recipe.muon_learning_rate


def test_without_numbers_the_recipe_is_that_of_the_configuration():
    for name, recipe in RECIPES.items():
        assert recipe_of(replace(OPTIONS, config=name)) == recipe


def test_given_numbers_replace_those_of_the_configuration():
    assert recipe_of(replace(OPTIONS, batch_size=6)) == replace(DEMO, batch_size=6)
    assert rates(recipe_of(replace(OPTIONS, learning_rate=0.5))) == (0.5, None), "AdamW alone"
    assert rates(recipe_of(replace(OPTIONS, muon_learning_rate=0.5))) == (DEMO.learning_rate, 0.5)
    assert rates(recipe_of(replace(OPTIONS, learning_rate=0.1, muon_learning_rate=0.5))) == (0.1, 0.5)


def test_the_schedule_is_that_of_the_recipe_the_steps_or_the_phases():
    assert str(asked_schedule(OPTIONS, DEMO)) == f"{DEMO.length}:{DEMO.steps}"
    assert str(asked_schedule(replace(OPTIONS, steps=7), DEMO)) == f"{DEMO.length}:7"
    phases = replace(OPTIONS, phases=parse_schedule("64:5,128:6,64:7"))
    assert str(asked_schedule(phases, DEMO)) == "64:5,128:6,64:7"
    assert row_lengths(phases, DEMO) == [64, 128]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"config": "small"}, "--config"),
        ({"objective": "masked_lm"}, "--objective"),
        ({"generator": Path("g")}, "--generator"),
        ({"discriminator": Path("d")}, "--discriminator"),
        ({"embeddings": "separate"}, "--embeddings"),
        ({"whole_word_masking": True}, "--whole-word-masking"),
        ({"max_ngram": 3}, "--max-ngram"),
        ({"minutes": 3.0}, "--minutes"),
        ({"steps": 7}, "steps"),
        ({"phases": parse_schedule("64:5")}, "steps"),
        ({"batch_size": 6}, "--batch-size"),
        ({"learning_rate": 0.5}, "--learning-rate"),
        ({"muon_learning_rate": 0.5}, "--muon-learning-rate"),
        ({"seed": 5}, "--seed"),
        ({"pack": False}, "packing"),
        ({"dropout": 0.2}, "--dropout"),
    ],
)
def test_an_option_that_decides_the_result_makes_another_run(change, name):
    options = replace(OPTIONS, **change)
    before, after = identity_of(OPTIONS, DEMO, CACHE), identity_of(options, recipe_of(options), CACHE)
    assert before.keys() == after.keys()
    assert before[name] != after[name]


def test_the_text_decides_the_run_by_its_content_not_by_its_path():
    moved = replace(OPTIONS, text=[Path("elsewhere")], data=Path("d"))
    assert identity_of(moved, DEMO, CACHE) == identity_of(OPTIONS, DEMO, CACHE)
    other = SimpleNamespace(meta={"digest": "4567"})
    assert identity_of(OPTIONS, DEMO, other)["the data"] != identity_of(OPTIONS, DEMO, CACHE)["the data"]


def test_how_a_run_is_computed_does_not_make_it_another_run():
    """So it can be continued on another machine, which has other memory and other ranks."""
    changed = replace(
        OPTIONS,
        output=Path("elsewhere"),
        micro_batch=3,
        shard=True,
        checkpoint_layers=True,
        compile=True,
        threads=2,
        save_minutes=1.0,
        resume="never",
        pair_minutes=2.0,
    )
    assert identity_of(changed, DEMO, CACHE) == identity_of(OPTIONS, DEMO, CACHE)
