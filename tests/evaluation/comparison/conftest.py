"""A comparison of the small language that takes seconds."""

import importlib
import pickle
from dataclasses import replace

import pytest

from electra_kernels.evaluation.comparison import prepare as preparation
from electra_kernels.evaluation.comparison import records
from electra_kernels.evaluation.comparison.compare import Options
from electra_kernels.evaluation.comparison.setting import Setting
from electra_kernels.models import ElectraConfig
from electra_kernels.training.recipe import Recipe

RECIPE = Recipe(
    length=16,
    batch_size=8,
    learning_rate=0.0,
    warmup=0.1,
    steps=30,
    head_start=0.3,
    head_start_replacements="unigram",
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(preparation, "FITTED_ROWS", 48)
    monkeypatch.setattr(preparation, "JUDGED_ROWS", 48)
    # The module's name is hidden behind the function of the same name.
    monkeypatch.setattr(importlib.import_module("electra_kernels.evaluation.probing.probe"), "STEPS", 3)


@pytest.fixture
def setting(electra_config, facts, rows, held_out, counts):
    generator = replace(electra_config.discriminator, num_hidden_layers=1, intermediate_size=32)
    config = ElectraConfig(electra_config.discriminator, generator, electra_config.mask_token_id)
    task = preparation.curve_task(rows, held_out, counts)
    return Setting(config, facts, rows, RECIPE, None, 3.0, held_out, curve=task, choice=[task], tasks=[task])


@pytest.fixture
def budget(setting):
    """The tokens of 30 steps."""
    rows = setting.rows
    return round(30 * RECIPE.batch_size * float(rows.attention_mask.sum()) / len(rows.input_ids))


@pytest.fixture
def setting_file(setting, tmp_path):
    path = tmp_path / "setting.pickle"
    path.write_bytes(pickle.dumps(setting))
    return path


@pytest.fixture
def options(tmp_path, documents):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join("\n".join(document.paragraphs) for document in documents))
    return Options(
        tmp_path / "out",
        ["corrupted_tokens", "corrupted_rows"],
        [text],
        tokens=[2_000],
        seeds=[2],
        rates=(1e-3, 3e-3),
        processes=1,
    )


@pytest.fixture
def done_here(monkeypatch):
    """The list of the (work, run) that a comparison does, in this process and with a small vocabulary."""
    done = []

    def in_this_process(work, path, missing, processes):
        setting = pickle.loads(path.read_bytes())
        for run in missing:
            done.append((work, run))
            yield work(setting, run, path.parent)

    monkeypatch.setattr(records, "in_processes", in_this_process)
    monkeypatch.setattr(
        preparation, "RECIPE", replace(preparation.RECIPE, vocab_size=150, length=16, batch_size=8)
    )
    monkeypatch.setattr(preparation, "tasks", lambda *arguments: [])
    return done
