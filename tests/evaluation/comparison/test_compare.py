"""The comparison of objectives on the small language: fair and resumable, and it respects foreign files."""

import json
import pickle
from dataclasses import replace

import pytest

from electra_kernels.errors import UserError
from electra_kernels.evaluation.comparison import records
from electra_kernels.evaluation.comparison.compare import _best_rate, compare, names
from electra_kernels.evaluation.comparison.runs import choice_run, probe_run, train_run
from electra_kernels.evaluation.comparison.setting import UNTRAINED


def ignore(line):
    pass


def test_every_rate_is_tried_once_and_the_best_has_all_seeds(options, done_here):
    page = compare(options, ignore)
    record = json.loads((options.output / "compare.json").read_text())
    assert len(record["tried"]) == 4
    for name in options.objectives:
        tried = [run for run in record["tried"] if run["objective"] == name]
        best = max(tried, key=lambda run: run["choice"])["learning_rate"]
        probed = [run for run in record["runs"] if run["objective"] == name]
        assert [(run["learning_rate"], run["seed"]) for run in probed] == [(best, 0), (best, 1)]
    text = page.read_text()
    assert all(name in text for name in options.objectives)
    assert 'src="data:image/png;base64,' in text
    assert (options.output / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_repeated(options, done_here):
    compare(options, ignore)
    count = len(done_here)
    # Two objectives: two rates, of which one is chosen, and a second seed of it. Untrained: two seeds. All but the
    # worse rates are probed.
    assert count == 2 * (2 + 2 + 1) + 2 + (2 + 1) * 2
    compare(options, ignore)
    assert len(done_here) == count


@pytest.mark.parametrize("lost", ["-trained.json", ".safetensors"])
def test_an_encoder_that_is_trained_again_is_probed_again(options, done_here, lost):
    compare(options, ignore)
    probed = next(run for work, run in done_here if work is probe_run and run.objective == "corrupted_rows")
    count = len(done_here)
    (options.output / "runs" / f"{probed.name}{lost}").unlink()
    compare(options, ignore)
    works = [train_run, *([choice_run] if probed.seed == 0 else []), probe_run]
    assert done_here[count:] == [(work, probed) for work in works]


def test_runs_of_another_kind_are_not_mixed(options, done_here):
    compare(options, ignore)
    with pytest.raises(
        UserError, match=r"holds runs of another comparison: seconds was None and is 1; use a new"
    ):
        compare(replace(options, seconds=1), ignore)
    count = len(done_here)
    compare(replace(options, seeds=[3]), ignore)
    assert len(done_here) == count + 2 * 3


def test_budgets_go_from_small_to_large_and_rates_are_tried_at_the_second(options, done_here):
    options = replace(options, tokens=[500, 1_000, 2_000], seeds=[2, 2, 1])
    page = compare(options, ignore)
    record = json.loads((options.output / "compare.json").read_text())
    assert {run["budget"] for run in record["tried"]} == {1_000}
    order = [(run["budget"], run["seed"], run["objective"]) for run in record["runs"]]
    untrained = [(0, seed, UNTRAINED) for seed in range(2)]
    assert order == untrained + [
        (budget, seed, name)
        for budget, seeds in ((500, 2), (1_000, 2), (2_000, 1))
        for seed in range(seeds)
        for name in options.objectives
    ]
    for run in record["runs"]:
        assert run["tokens"] == pytest.approx(run["budget"], abs=8 * 16)
    assert "1,000 tokens" in page.read_text()


def test_a_comparison_that_is_stopped_has_a_page_of_the_finished_budgets(options, done_here, monkeypatch):
    options = replace(options, tokens=[500, 1_000, 2_000], seeds=[1])
    make = records.in_processes

    def stopped(work, path, missing, processes):
        for record in make(work, path, missing, processes):
            if record["budget"] == 2_000:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(records, "in_processes", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare(options, ignore)
    record = json.loads((options.output / "compare.json").read_text())
    assert {run["budget"] for run in record["runs"]} == {0, 500, 1_000}
    page = (options.output / "compare.html").read_text()
    assert "1,000 tokens" in page
    assert "2,000 tokens" not in page
    monkeypatch.setattr(records, "in_processes", make)
    count = len(done_here)
    compare(options, ignore)
    assert {run.budget for _, run in done_here[count:]} == {2_000}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"seeds": [1, 2]}, "--seeds has 2 numbers, should have one, or one for each of the 1 budgets"),
        ({"tokens": [2_000, 1_000]}, "--tokens is 2000,1000, should be in ascending order"),
        ({"tokens": [2_000, 2_000]}, "--tokens is 2000,2000, should be in ascending order"),
    ],
)
def test_budgets_and_seeds_that_do_not_fit_are_refused_before_anything_is_written(changed, message, options):
    with pytest.raises(UserError, match=message):
        compare(replace(options, **changed), ignore)
    assert not options.output.exists()


def test_a_rate_without_a_figure_is_never_the_best():
    tried = [
        {"objective": "x", "learning_rate": rate, "choice": figure}
        for rate, figure in ((1.0, float("nan")), (2.0, 0.4))
    ]
    assert _best_rate("x", tried) == 2.0


def test_an_unknown_objective_is_named():
    assert names("corrupted_rows,masked_lm,masked_lm") == ["corrupted_rows", "masked_lm"]
    with pytest.raises(UserError, match="--objectives has 'nothing', should be names among replaced_tokens"):
        names("masked_lm,nothing")


def test_a_stopped_comparison_says_where_the_finished_runs_are(options, done_here, monkeypatch):
    def stopped(work, path, missing, processes):
        yield work(pickle.loads(path.read_bytes()), missing[0], path.parent)
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "in_processes", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"the finished runs are in .*runs and will not run again"):
        compare(options, ignore)
    assert sorted(path.suffix for path in (options.output / "runs").iterdir()) == [
        ".json",
        ".log",
        ".pickle",
        ".safetensors",
    ]
    assert not (options.output / "electra-kernels.lock").exists()


@pytest.mark.parametrize("name", ["compare.html", "compare.json", "compare.png", "runs/mine.txt"])
def test_foreign_files_are_left_alone(name, options, done_here):
    path = options.output / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(
        UserError, match=f"holds {name.split('/')[0]}, which is not from electra-kernels compare"
    ):
        compare(options, ignore)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_an_invalid_setting_file_is_one_clear_line(content, options, done_here):
    options.output.mkdir()
    (options.output / "setting.json").write_text(content)
    with pytest.raises(UserError, match=r"setting\.json is not from a comparison"):
        compare(options, ignore)
