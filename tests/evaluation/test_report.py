"""The report of a run that is going on, stopped or finished: pictures inside, every value escaped, nothing left out."""

import json

import pytest

from electra_kernels.errors import UserError
from electra_kernels.evaluation import report
from electra_kernels.evaluation.colouring import ScoredToken
from electra_kernels.evaluation.pages import render
from electra_kernels.evaluation.report import PAGES, make_report, report_page, write_report
from electra_kernels.evaluation.run_files import read_run, write_metrics
from electra_kernels.training.log import Log, StepRecord

SAMPLES = [
    [ScoredToken("a", 0.0), ScoredToken("ca", 0.9, "do"), ScoredToken("##t", 0.5), ScoredToken("<b>", 1.0)]
]
PAIR = {
    "curve": [
        {"step": step, "per_token_tokens": 0.6, "per_token_rows": 0.7, "per_row_rows": 0.51}
        for step in (0, 1234)
    ],
    "probe": {"per_token": 0.66, "per_row": 0.55, "untrained": 0.54},
    "auc_frequency": 0.58,
    "standard_error_rows": 0.02,
    "standard_error_tokens": 0.01,
    "steps": 1234,
}


@pytest.fixture
def metrics():
    losses = {"mlm_loss": 4.2, "rtd_loss": 0.3, "base_rate_entropy": 0.4}
    samples = {"auc_samples": 0.6, "auc_samples_frequency": 0.55}
    figures = {"auc_random": 0.81, **losses, **samples}
    return {
        "config": "demo",
        "objective": "replaced_tokens",
        "recipe": {"batch_size": 16, "length": 64},
        "model": "out/model",
        "text": {
            "source": "text of <Tom & Jerry>",
            "documents": 1000,
            "held_out_documents": 100,
            "tokens": 1_000_000,
            "overlap": 0.125,
        },
        "run": {
            "steps": 1500,
            "tokens": 900_000,
            "seconds": 90.0,
            "threads": 2,
            "device": "AVX2",
            "bfloat16": False,
            "backend": "cpp",
            "seed": 3,
        },
        "evaluations": [{"step": 1, "seconds": 1.0, **figures}, {"step": 2, "seconds": 2.0, **figures}],
        "final": {"mlm_accuracy": 0.3, "recall": 0.25, **figures},
        "baselines": {"auc_frequency": 0.62, "unigram_entropy": 6.5},
        "alarms": [],
        "real_word_errors": {"reason": "no network"},
        "step_seconds": {"generator": 0.01, "discriminator": 0.02},
        "pair": None,
    }


@pytest.fixture
def write(metrics, tmp_path, monkeypatch):
    """Write the report with some of the metrics replaced, and return the page in one line.

    Without the learning curves, which take time.
    """
    monkeypatch.setattr(report, "learning_pictures", lambda records: {})

    def written(**changed):
        return " ".join(write_report(tmp_path, metrics | changed, SAMPLES).read_text().split())

    return written


def test_a_replaced_token_is_marked_and_the_text_is_escaped(write):
    page = write()
    assert 'a <u><span style="background:rgb(218,90,62)" title="90%">ca</span></u><s>do</s>' in page.replace(
        '<span style="background:rgb(255,255,255)" title="0%">a</span>', "a"
    )
    assert '</s><span style="background:rgb(234,164,148)" title="50%">t</span> <span' in page
    assert page.count("<u>") == 1 + page.count("<u>underlined</u>")
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_the_report_has_the_figures_and_its_pictures_inside(metrics, tmp_path):
    page = " ".join(write_report(tmp_path, metrics, SAMPLES).read_text().split())
    assert "text of &lt;Tom &amp; Jerry&gt;, 1,000 documents with 1,000,000 tokens" in page
    assert '<td class="">10,000 tokens/s</td>' in page
    assert '<td class="">AVX2, threads: 2</td>' in page
    assert '<td class="n">0.810</td>' in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 4
    assert "<h1>Pre-training: replaced tokens, configuration demo</h1>" in page
    assert "status" not in page.partition("</style>")[2]


def test_the_pair_opens_the_report(write):
    page = write(pair=PAIR)
    assert page.index("only the label differs") < page.index("<h2>The run</h2>")
    assert "<h1>Pre-training" not in page
    assert "After 1,234 steps" in page
    assert "reaches 0.51, which is chance within two standard errors" in page
    assert "AUC 0.66 against 0.55 (untrained encoder: 0.54, rarity of the word: 0.58)" in page
    assert "learning rates of 0.004 and 0.001, which" in page
    better = [point | {"per_row_rows": 0.55} for point in PAIR["curve"]]
    assert "which is chance" not in write(pair=PAIR | {"curve": better})


def test_alarms_and_real_word_errors_have_their_sections(write):
    page = write()
    assert "Alarms" not in page
    assert "<p>Not measured: no network.</p>" in page
    errors = {"items": 1100, "words": 9000, "auc": 0.7, "auc_word_frequency": 0.6, "auc_word_pieces": 0.5}
    page = write(alarms=["alarm at step 5: <loss>"], real_word_errors=errors)
    assert "<li>alarm at step 5: &lt;loss&gt;</li>" in page
    assert "in 1,100 held-out sentences" in page
    assert '<tr><td class="">the discriminator</td><td class="n">0.700</td></tr>' in page


def test_a_value_that_is_missing_is_an_error(metrics):
    with pytest.raises(Exception, match="undefined"):
        render("report.html", **metrics)


# ---- a run that has a log ----

OPTIONS = {
    "config": "small",
    "objective": "replaced_tokens",
    "execution": {"ranks": 8, "micro_batch": 32, "shard": True, "compile": False},
    "run": {"device": "NVIDIA H200", "seed": 7},
}
METRICS = {
    "mlm_loss": 4.0,
    "rtd_loss": 0.3,
    "recall": 0.25,
    "gradient_norm": 1.0,
    "memory": 2**30,
    "padding": 0.001,
}


@pytest.fixture
def log(tmp_path):
    """The log of a run of 100 steps that has done 40."""
    (tmp_path / "run.json").write_text(json.dumps(OPTIONS))
    log = Log(tmp_path, warn=pytest.fail)
    log.start(0, 100)
    for step in (10, 20, 30, 40):
        log.step(StepRecord(step, 100, 6_400 * step, 2.0 * step, {"learning_rate": 1e-3}, METRICS))
        log.evaluation(step, 2.0 * step, {"auc_random": 0.5 + step / 1_000, "mlm_loss": 4.2})
    return log


@pytest.fixture
def page(tmp_path):
    """The page without pictures, which take time, in one line."""
    return lambda: " ".join(report_page(read_run(tmp_path), {}, {}).split())


def pictures(folder):
    """The names of the pictures in the page."""
    page = make_report(folder).read_text()
    return [part.partition(" over the steps")[0] for part in page.split('alt="')[1:]]


def test_a_run_that_is_going_on_says_how_far_it_is(log, page):
    found = page()
    assert "In progress: step 40 of 100 (40%), about 0:00:00 left. The last record is of 20" in found
    assert "<h2>Held-out text, so far</h2>" in found
    assert '<td class="n">0.540</td>' in found
    assert '<td class="">3,200 tokens/s</td>' in found
    assert '<td class="">8 × NVIDIA H200</td>' in found
    assert '<td class="">32 rows at a time, shard</td>' in found
    assert '<td class="">40 of 100</td>' in found


def test_a_run_that_may_have_been_killed_says_how_to_continue(log, page, monkeypatch):
    hint = "If the run is no longer going on, the same command resumes it."
    assert hint not in page()
    monkeypatch.setattr(report, "_SILENCE", -1.0)
    assert hint in page()


def test_the_curves_come_from_the_log(log, tmp_path):
    assert pictures(tmp_path) == [
        "auc",
        "mlm loss",
        "rtd loss",
        "shares",
        "gradient norm",
        "learning rate",
        "time and padding",
        "memory",
    ]
    written = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(written) == 8
    assert set(written) < set(PAGES)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in written)


def test_a_record_that_is_being_written_does_not_matter(log, page, tmp_path):
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 50, "ti')
    assert "In progress: step 40 of 100" in page()


def test_numbers_that_are_not_finite_leave_gaps(log, page, tmp_path):
    nothing = dict.fromkeys(METRICS, float("nan"))
    log.step(StepRecord(50, 100, 1, 1.0, {}, nothing))
    log.evaluation(50, 1.0, {"auc_random": float("nan"), "mlm_loss": float("inf")})
    assert "step 50 of 100" in page()
    assert len(pictures(tmp_path)) == 8


def test_a_stopped_run_says_why_and_when_it_was_resumed(log, page, tmp_path):
    log.end(40, "SIGTERM")
    assert "Stopped at step 40 of 100 (40%): SIGTERM. The same command resumes it." in page()
    resumed = Log(tmp_path, step=30, warn=pytest.fail)
    resumed.start(30, 100)
    found = page()
    assert "In progress: step 30 of 100" in found
    assert '<td class="">resumed at step</td><td class="">30</td>' in found


def test_a_run_that_has_only_begun_has_a_page(page, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(OPTIONS))
    assert "The training has not begun." in page()
    Log(tmp_path, warn=pytest.fail).start(0, 100)
    found = page()
    assert "In progress: step 0 of 100 (0%). The last record" in found
    assert pictures(tmp_path) == []


def test_alarms_of_the_log_are_shown(log, page):
    log.alarm(40, "<a loss> is NaN")
    assert "<li>at step 40: &lt;a loss&gt; is NaN</li>" in page()


def test_a_finished_run_has_its_measurements(log, page, write, metrics):
    log.end(40)
    assert "All 40 steps are done; the measurements after the training are not there yet." in page()
    found = write(run=metrics["run"] | {"steps": 40})
    assert '<p class="status">' not in found
    assert "the original, struck out" in found
    assert "<p>Not measured: no network.</p>" in found


def test_measurements_of_an_earlier_run_are_not_shown(log, page, metrics, tmp_path):
    write_metrics(tmp_path, metrics)
    assert "In progress: step 40 of 100" in page()
    log.end(40)
    assert "the measurements after the training are not there yet" in page()
    assert "Not measured: no network" not in page()


def test_an_objective_without_replaced_tokens_has_its_own_curves(page, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"objective": "sentence_order"}))
    log = Log(tmp_path, warn=pytest.fail)
    for step in (10, 20):
        log.step(StepRecord(step, 100, step, 1.0, {}, {"order_loss": 0.6, "right": 0.5}))
        log.evaluation(step, 1.0, {"order_loss": 0.625})
    found = page()
    assert "<h1>Pre-training: sentence order</h1>" in found
    assert pictures(tmp_path) == ["losses", "metrics"]
    assert '<td class="">order loss</td><td class="n">0.625</td>' in found
    assert "discriminator" not in found


@pytest.mark.parametrize(
    "name, content, message",
    [
        (None, "", "is not the output of electra-kernels pretrain: .*run.json is missing"),
        ("metrics.json", '{"accuracy": 1.0}', "run.json is missing"),
        ("run.json", "{", "run.json is not JSON"),
        ("run.json", "[]", "run.json should hold an object, not list"),
    ],
)
def test_a_folder_that_is_no_run_is_an_error_in_one_line(name, content, message, tmp_path):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        make_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("*.html")) == []
