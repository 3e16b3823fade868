"""`benchmarks.fine_tuned` on tiny encoders and a few labelled sentences."""

import json
import pickle
import random
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from benchmarks import fine_tuned
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import train_vocabulary
from electra_kernels.evaluation.comparison.runs import weights_path
from electra_kernels.evaluation.comparison.setting import UNTRAINED, Run
from electra_kernels.models import Encoder, EncoderConfig
from electra_kernels.training.model_folder import save_weights

WORDS = "the old cat a small dog our house while their rain fell on every green hill".split()
BUDGET = 1_000
RUNS = [
    Run(name, rate, seed, budget)
    for seed in range(2)
    for name, rate, budget in (
        (UNTRAINED, 0.0, 0),
        ("replaced_tokens", 1e-3, BUDGET),
        ("masked_lm", 2e-3, BUDGET),
    )
]


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """The folder of a comparison of two objectives with two seeds, and labelled files that need no download."""
    chance = random.Random(0)
    sentences = [chance.choices(WORDS, k=8) for _ in range(60)]
    tokenizer = train_vocabulary([Document("text", tuple(map(" ".join, sentences)))], 100)
    encoder = EncoderConfig(tokenizer.get_vocab_size(), 16, 16, 1, 2, 24, family="modern", dropout=0.0)
    setting = SimpleNamespace(
        config=SimpleNamespace(discriminator=encoder), recipe=SimpleNamespace(length=16)
    )
    runs, labels = tmp_path / "runs", tmp_path / "fine_tuned" / "labels"
    for folder in (runs, labels / "commas", labels / fine_tuned.SENTIMENT):
        folder.mkdir(parents=True)
    (runs / "setting.pickle").write_bytes(pickle.dumps(setting))
    for number, run in enumerate(RUNS):
        torch.manual_seed(number)
        save_weights(Encoder(encoder), weights_path(runs, run))
    tokenizer.save(str(tmp_path / "fine_tuned" / "tokenizer.json"))
    for part, some in (("train", sentences[:40]), ("test", sentences[40:])):
        tagged = (
            "".join(f"{word}\t{'comma' if word == 'cat' else 'none'}\n" for word in words) for words in some
        )
        (labels / "commas" / f"{part}.tsv").write_text("\n".join(tagged))
        rated = (
            json.dumps({"text": " ".join(words), "label": "positive" if "cat" in words else "negative"})
            for words in some
        )
        (labels / fine_tuned.SENTIMENT / f"{part}.jsonl").write_text("\n".join(rated))
    record = {
        "objectives": {"replaced_tokens": {}, "masked_lm": {}},
        "budgets": {str(BUDGET): 2},
        "runs": [asdict(run) for run in RUNS],
        "curve_baseline": {},
        "recipe": {"vocab_size": 100},
    }
    (tmp_path / "compare.json").write_text(json.dumps(record))
    monkeypatch.setattr(fine_tuned, "in_processes", _in_this_process)
    return tmp_path


def _in_this_process(work, path, runs, processes):
    setting = pickle.loads(path.read_bytes())
    for run in runs:
        yield work(setting, run, path.parent)


def test_every_encoder_is_judged_once_and_the_tables_have_all_objectives(comparison, capsys):
    fine_tuned.main([str(comparison)])
    printed = capsys.readouterr().out
    judged = comparison / "fine_tuned"
    assert {file.stem for file in judged.glob("*-*.json")} == {run.name for run in RUNS}
    for run in RUNS:
        figures = json.loads((judged / f"{run.name}.json").read_text())["probes"]
        assert figures.keys() == {"commas", "sentiment"}
        assert all(0 <= figure["fine_tuned"] <= 1 for figure in figures.values())
    for name in ("replaced_tokens", "masked_lm", UNTRAINED):
        assert f"\n| {name} | " in printed
    assert not [path for path in judged.iterdir() if path.is_dir() and path.name != "labels"]
    fine_tuned.main([str(comparison)])
    assert printed.endswith(capsys.readouterr().out)  # the tables alone: nothing was trained again
