"""The comparison of objectives on the tiny language: fair, resumable, and the page says what was measured."""

import importlib
import json
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from electra_kernels.commands.progress import Progress
from electra_kernels.errors import UserError
from electra_kernels.evaluation.comparison import compare as comparison
from electra_kernels.evaluation.comparison import runs
from electra_kernels.evaluation.comparison.compare import Options, compare, names
from electra_kernels.evaluation.comparison.runs import (
    UNTRAINED,
    Run,
    Setting,
    carry_out,
    measure,
    objective_of,
    recipe_of,
)
from electra_kernels.models import ElectraConfig
from electra_kernels.training.objectives import OBJECTIVES
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
    monkeypatch.setattr(comparison, "FITTED_ROWS", 48)
    monkeypatch.setattr(comparison, "JUDGED_ROWS", 48)
    monkeypatch.setattr(importlib.import_module("electra_kernels.evaluation.probing.probe"), "STEPS", 3)


@pytest.fixture
def setting(electra_config, facts, rows, held_out, counts):
    generator = replace(electra_config.discriminator, hidden_size=16, intermediate_size=32)
    config = ElectraConfig(electra_config.discriminator, generator, electra_config.mask_token_id)
    task = comparison._replaced_tokens(rows, held_out, counts)
    return Setting(config, facts, rows, RECIPE, None, 3.0, curve=task, choice=task, tasks=[task])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_objectives_start_with_the_same_encoder(setting, name):
    ours, other = (objective_of(setting, Run(kind, 1e-3, 5)).encoder for kind in (name, "corrupted_tokens"))
    for one, two in zip(ours.state_dict().values(), other.state_dict().values()):
        assert torch.equal(one, two)


def test_a_run_is_the_same_again_and_its_curve_begins_before_the_first_step(setting, tmp_path):
    run = Run("corrupted_tokens", 3e-3, 1)
    first, second = carry_out(setting, run, tmp_path), carry_out(setting, run, tmp_path)
    for result in (first, second):
        del result["seconds"]
        for point in result["curve"]:
            del point["seconds"]
    assert first == second
    assert [point["step"] for point in first["curve"]] == [0, 10, 20, 30]
    assert first["curve"][0]["tokens"] == 0


def test_what_is_probed_is_the_encoder_of_the_end_of_the_run(setting, tmp_path):
    run = Run("corrupted_tokens", 3e-3, 1)
    trained = carry_out(setting, run, tmp_path)
    figures = measure(setting, run, tmp_path)["probes"]["replaced_tokens"]
    assert figures.keys() == {"frozen", "fine_tuned"}
    # The curve and the only task are one and the same here.
    assert figures["frozen"] == pytest.approx(trained["curve"][-1]["figure"])


def test_the_untrained_encoder_is_where_every_run_of_its_seed_begins(setting, tmp_path):
    untrained = carry_out(setting, Run(UNTRAINED, 0.0, 1), tmp_path)
    run = carry_out(setting, Run("masked_lm", 3e-3, 1), tmp_path)
    assert untrained["curve"][0]["figure"] == run["curve"][0]["figure"]
    assert measure(setting, Run(UNTRAINED, 0.0, 1), tmp_path)["probes"].keys() == {"replaced_tokens"}


def test_measuring_does_not_disturb_the_training(setting, monkeypatch, tmp_path):
    run = Run("replaced_tokens", 3e-3, 1)
    often = carry_out(setting, run, tmp_path)["choice"]
    monkeypatch.setattr(runs, "CURVE_POINTS", 1)
    assert carry_out(setting, run, tmp_path)["choice"] == often


def test_the_rate_of_muon_goes_with_the_one_that_is_tried(setting):
    muon = replace(setting, recipe=replace(setting.recipe, learning_rate=2e-3, muon_learning_rate=6e-3))
    recipe = recipe_of(muon, Run("masked_lm", 1e-3, 0))
    assert (recipe.learning_rate, recipe.muon_learning_rate) == pytest.approx((1e-3, 3e-3))
    assert recipe_of(setting, Run("masked_lm", 1e-3, 0)).muon_learning_rate is None


@pytest.fixture
def options(tmp_path, documents):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join("\n".join(document.paragraphs) for document in documents))
    return Options(
        tmp_path / "out",
        ["corrupted_tokens", "corrupted_rows"],
        [text],
        tokens=2_000,
        seeds=2,
        rates=(1e-3, 3e-3),
        processes=1,
    )


@pytest.fixture
def here(monkeypatch):
    """Runs in this process, counted; the vocabulary is as small as the language."""
    done = []

    def in_processes(work, path, missing, processes):
        setting = pickle.loads(path.read_bytes())
        for run in missing:
            done.append((work, run))
            yield work(setting, run, path.parent)

    monkeypatch.setattr(comparison, "in_processes", in_processes)
    monkeypatch.setattr(
        comparison, "RECIPE", replace(comparison.RECIPE, vocab_size=150, length=16, batch_size=8)
    )
    monkeypatch.setattr(comparison, "tasks", lambda *arguments: [])
    return done


def test_every_rate_is_tried_once_and_the_best_has_all_seeds(options, here):
    page = compare(options, Progress())
    record = json.loads((options.output / "compare.json").read_text())
    assert len(record["tried"]) == 4
    for name in options.objectives:
        tried = [run for run in record["tried"] if run["objective"] == name]
        best = max(tried, key=lambda run: run["choice"])["learning_rate"]
        probed = [run for run in record["runs"] if run["objective"] == name]
        assert [(run["learning_rate"], run["seed"]) for run in probed] == [(best, 0), (best, 1)]
    text = page.read_text()
    assert all(name in text for name in options.objectives)
    assert "<img" in text
    assert (options.output / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_done_is_not_done_again(options, here):
    compare(options, Progress())
    count = len(here)
    # Two objectives: two rates, a second seed of the better one; no training: two seeds. All but the worse are probed.
    assert count == 2 * (2 + 1) + 2 + (2 + 1) * 2
    compare(options, Progress())
    assert len(here) == count


@pytest.mark.parametrize("lost", ["-trained.json", ".safetensors"])
def test_an_encoder_that_is_trained_again_is_probed_again(options, here, lost):
    compare(options, Progress())
    probed = next(run for step, run in here if step is measure and run.objective == "corrupted_rows")
    count = len(here)
    (options.output / "runs" / f"{probed.name}{lost}").unlink()
    compare(options, Progress())
    assert here[count:] == [(carry_out, probed), (measure, probed)]


def test_runs_of_another_length_are_not_mixed(options, here):
    compare(options, Progress())
    with pytest.raises(UserError, match=r"holds runs of another comparison: steps was .*; use a new one"):
        compare(replace(options, tokens=3_000), Progress())
    count = len(here)
    compare(replace(options, seeds=3), Progress())
    assert len(here) == count + 2 * 3


def test_the_best_rate_is_never_one_that_gave_nothing():
    tried = [
        {"objective": "x", "learning_rate": rate, "choice": figure}
        for rate, figure in ((1.0, float("nan")), (2.0, 0.4))
    ]
    assert comparison._best_rate("x", tried) == 2.0


def test_an_unknown_objective_is_named():
    assert names("corrupted_rows,masked_lm,masked_lm") == ["corrupted_rows", "masked_lm"]
    with pytest.raises(UserError, match="'nothing' is none, should be among replaced_tokens"):
        names("masked_lm,nothing")


def test_runs_in_processes_of_their_own_give_the_same(setting, tmp_path):
    path = tmp_path / "setting.pickle"
    path.write_bytes(pickle.dumps(setting))
    run = Run("corrupted_tokens", 3e-3, 1)
    (there,) = runs.in_processes(carry_out, path, [run], 1)
    assert there["choice"] == pytest.approx(carry_out(setting, run, tmp_path)["choice"], abs=1e-3)


def test_a_comparison_that_is_killed_takes_its_runs_with_it(setting, tmp_path):
    path = tmp_path / "setting.pickle"
    endless = replace(setting, recipe=replace(setting.recipe, steps=10**9))
    path.write_bytes(pickle.dumps(endless))
    program = (
        "from pathlib import Path; from electra_kernels.evaluation.comparison import runs; "
        "run = runs.Run('corrupted_tokens', 1e-3, 0); "
        f"print(list(runs.in_processes(runs.carry_out, Path({str(path)!r}), [run], 1)))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        worker = _wait(lambda: _training_child(parent.pid))
    finally:
        parent.kill()
        parent.wait()
    assert worker
    assert _wait(lambda: not _command(worker))


def _training_child(parent: int) -> int | None:
    """The child that has started its threads, once there is one: it has begun its work."""
    for child in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
        if b"spawn_main" in _command(child):
            return child if len(list(Path(f"/proc/{child}/task").iterdir())) > 1 else None
    return None


def _command(process: int) -> bytes:
    """Empty where it has ended, also where nobody has asked how."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    return None
