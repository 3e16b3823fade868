"""The pages: pictures inside, every value escaped, nothing left out."""

import pytest

from electra_kernels.evaluation.colouring import ScoredToken
from electra_kernels.evaluation.pages import render
from electra_kernels.evaluation.report import write_report

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
def write(metrics, tmp_path):
    """Write the report with some of the metrics replaced, and return the page in one line."""

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


def test_the_report_has_the_figures_and_its_pictures_inside(write):
    page = write()
    assert "text of &lt;Tom &amp; Jerry&gt;: 1,000 documents with 1,000,000 word pieces" in page
    assert "10,000 tokens/s on 2 threads of AVX2, back end cpp, seed 3." in page
    assert '<td class="n">0.810</td>' in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 4
    assert "<h1>Replaced-token detection</h1>" in page


def test_the_pair_opens_the_report(write):
    page = write(pair=PAIR)
    assert page.index("only the label differs") < page.index("<h2>The run</h2>")
    assert "After 1,234 steps" in page
    assert "reaches 0.51, which is chance within two standard errors" in page
    assert "AUC 0.66 against 0.55 (untrained encoder: 0.54, rarity of the word: 0.58)" in page
    assert "learning rates of 0.002 and 0.001, which" in page
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
