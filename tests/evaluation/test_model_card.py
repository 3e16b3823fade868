"""The model card: a head that a hub reads, the figures of the run, and code that loads the models."""

import json

import pytest
import yaml

from electra_kernels.data.prepare import DOCUMENTATION
from electra_kernels.evaluation.model_card import model_card, write_cards
from electra_kernels.training.recipe import RECIPES

DISCRIMINATOR = {"architectures": ["ElectraForPreTraining"], "model_type": "electra"}
GENERATOR = {"architectures": ["ElectraForMaskedLM"], "model_type": "electra"}
TEXT = {
    "source": "laws & orders.txt",
    "documents": 1200,
    "held_out_documents": 3,
    "tokens": 45_000,
    "held_out_tokens": 600,
    "vocab_size": 99,
}
RUN = {
    "objective": "replaced_tokens",
    "config": "small",
    "from": None,
    "recipe": RECIPES["small"].to_dict(),
    "text": TEXT,
}


def head(card):
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (DISCRIMINATOR, "token-classification"),
        (GENERATOR, "fill-mask"),
        (
            {"architectures": ["ModernBertForTokenClassification"], "model_type": "modernbert"},
            "token-classification",
        ),
        ({"architectures": ["ElectraModel"], "model_type": "electra"}, "feature-extraction"),
    ],
)
def test_the_head_is_what_a_hub_reads(config, task):
    fields = head(model_card(RUN, {"": config}, role="discriminator"))
    assert fields == {
        "library_name": "transformers",
        "pipeline_tag": task,
        "license": "unknown",
        "tags": ["electra_kernels", "replaced_tokens", config["model_type"]],
    }


def test_the_licences_of_the_documentation_are_named():
    card = model_card({**RUN, "text": TEXT | {"source": DOCUMENTATION}}, {"": DISCRIMINATOR})
    assert (head(card)["license"], head(card)["language"]) == ("other", "en")
    for name in ("Django", "SQLAlchemy", "Twisted", "Celery", "Scrapy"):
        assert f"| documentation of {name} | " in card
        assert name in DOCUMENTATION
    assert "CC-BY-SA-4.0" in card


def test_the_card_has_data_recipe_and_figures():
    card = model_card(RUN, {"discriminator": DISCRIMINATOR})
    for line in (
        "laws & orders.txt",
        "1,200 to train on, 3 held out",
        "| batch_size | 128 |",
        "Not measured yet.",
    ):
        assert line in card
    card = model_card(
        {**RUN, "final": {"auc_random": 0.91234}, "from": "bert"}, {"discriminator": DISCRIMINATOR}
    )
    assert "| AUC, fixed random replacements | 0.912 |" in card
    assert "from the weights of `bert`" in card


def test_every_folder_of_transformers_has_a_card_that_loads_it(tmp_path):
    for name, config in (("discriminator", DISCRIMINATOR), ("generator", GENERATOR)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    write_cards(tmp_path, RUN)
    both = (tmp_path / "README.md").read_text()
    assert 'generator = ElectraForMaskedLM.from_pretrained("FOLDER/generator")' in both
    assert 'discriminator = ElectraForPreTraining.from_pretrained("FOLDER/discriminator")' in both
    alone = (tmp_path / "generator" / "README.md").read_text()
    assert 'model = ElectraForMaskedLM.from_pretrained("FOLDER")' in alone
