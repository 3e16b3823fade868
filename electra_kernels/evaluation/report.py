"""The report of a run: one HTML page with its pictures inside, metrics.json with every figure, the curves as PNG."""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from electra_kernels.evaluation import figures
from electra_kernels.evaluation.colouring import ScoredToken, to_html
from electra_kernels.evaluation.pair import PER_ROW, PER_TOKEN
from electra_kernels.files import write_whole

METRICS = "metrics.json"
PAGES = ("report.html", "auc.png", "mlm_loss.png", "rtd_loss.png")  # what `write_report` makes of the metrics


def write_report(directory: Path, metrics: dict[str, Any], samples: Sequence[Sequence[ScoredToken]]) -> Path:
    """Write metrics.json, report.html, which shows what it holds, and the learning curves; returns the page's path."""
    write_metrics(directory, metrics)
    curves = _curves(metrics)
    for name, picture in curves.items():
        write_whole(directory / f"{name}.png", picture)
    sections = [
        _pair_section(metrics),
        _summary_section(metrics),
        _alarms_section(metrics["alarms"]),
        _samples_section(samples, metrics),
        _errors_section(metrics),
        _curves_section(curves),
        _step_section(metrics),
    ]
    template = (
        resources.files("electra_kernels.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    )
    page = directory / "report.html"
    body = "\n".join(sections)
    write_whole(page, Template(template).substitute(title="pre-training report", body=body))
    return page


def write_metrics(directory: Path, metrics: dict[str, Any]) -> Path:
    """Write metrics.json alone; returns its path."""
    path = directory / METRICS
    write_whole(path, json.dumps(finite(metrics), indent=2, allow_nan=False) + "\n")
    return path


def finite(values: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(values, dict):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def image(png: bytes, alternative: str) -> str:
    """An ``img`` with the picture in it."""
    encoded = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(alternative)}">'


def html_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table of plain texts that scrolls by itself where the page is narrow."""
    head = "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in header) + "</tr>" if header else ""
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"n" if column else ""}">{html.escape(cell)}</td>' for column, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def _pair_section(metrics: dict[str, Any]) -> str:
    pair = metrics["pair"]
    if pair is None:
        return "<h1>Replaced-token detection</h1>"
    last, probe = pair["curve"][-1], pair["probe"]
    pictures = "\n".join(
        image(draw(pair), "AUC of both encoders over the steps")
        for draw in (figures.pair_rows_figure, figures.pair_tokens_figure)
    )
    chance = ""
    if last["per_row_rows"] < 0.5 + 2 * pair["standard_error_rows"]:
        chance = ", which is chance within two standard errors: in these steps it has learned nothing"
    return f"""<h1>Same text, same encoder, same corrupted rows, same steps; only the label differs: one per token,
or one per sequence (“was anything replaced?”).</h1>
<div class="curves">{pictures}</div>
<p>After {pair["steps"]:,} steps the model with a label per token tells corrupted rows from clean ones with AUC
{last["per_token_rows"]:.2f}, the one that was asked just that with {last["per_row_rows"]:.2f}{chance}. What a linear
probe finds in the frozen encoders about single tokens: {probe["per_token"]:.2f} against {probe["per_row"]:.2f}
(untrained encoder: {probe["untrained"]:.2f}, rarity of the word: {pair["auc_frequency"]:.2f}).</p>
<p class="note">AUC: the probability that a corrupted one is ranked above a clean one; 0.5 is chance, its standard error
{pair["standard_error_rows"]:.3f} for rows and {pair["standard_error_tokens"]:.3f} for tokens. Half of the rows have
15 % of their tokens replaced by draws from the word frequencies. Both sides are the same module with the same initial
weights and see the same batches, with learning rates of {PER_TOKEN.learning_rate:g} and
{PER_ROW.learning_rate:g}, from trials. One answers at every token, and
a row's score is the log-sum-exp of its tokens' logits; the other answers at [CLS]. One seed.</p>"""


def _summary_section(metrics: dict[str, Any]) -> str:
    run, final, text = metrics["run"], metrics["final"], metrics["text"]
    rows = [
        ("AUC, fixed random replacements", f"{final['auc_random']:.3f}"),
        ("the same by the rarity of the word alone", f"{metrics['baselines']['auc_frequency']:.3f}"),
    ]
    if "mlm_loss" in final:
        rows += [
            ("AUC, the generator's own samples", f"{final['auc_samples']:.3f}"),
            ("the same by the rarity of the word alone", f"{final['auc_samples_frequency']:.3f}"),
            ("found of these at probability 0.5", f"{final['recall']:.1%}"),
            ("generator, nats per masked token", f"{final['mlm_loss']:.2f}"),
            ("the same by word frequency alone", f"{metrics['baselines']['unigram_entropy']:.2f}"),
            ("generator, masked tokens right", f"{final['mlm_accuracy']:.1%}"),
        ]
    return f"""<h2>The run</h2>
<p>{html.escape(text["source"])}: {text["documents"]:,} documents, {text["tokens"]:,} word pieces to train on,
{text["held_out_documents"]:,} whole documents held out ({text["overlap"]:.1%} of their paragraphs also occurred in the
training text and were dropped). {run["steps"]:,} steps, {run["tokens"]:,} tokens,
{run["seconds"] / 60:.1f} minutes, {run["tokens"] / run["seconds"]:,.0f} tokens/s on
{run["threads"]} threads of {html.escape(run["device"])}{", bfloat16" if run["bfloat16"] else ""},
back end {run["backend"]}, seed {run["seed"]}.</p>
{html_table(rows)}
<p class="note">Time and tokens/s include the evaluations. The demo's optimiser, depth, share of masked tokens and
weight of the RTD loss were chosen on documents taken out of its training text, the rest on its held-out ones.</p>"""


def _alarms_section(alarms: Sequence[str]) -> str:
    if not alarms:
        return ""
    items = "".join(f"<li>{html.escape(alarm)}</li>" for alarm in alarms)
    return f"<h2>Alarms</h2><ul>{items}</ul>"


def _samples_section(samples: Sequence[Sequence[ScoredToken]], metrics: dict[str, Any]) -> str:
    lines = "\n".join(f'<div class="sample">{to_html(tokens)}</div>' for tokens in samples)
    return f"""<h2>Held-out text through the discriminator</h2>
<p>The redder, the more probable that the token was replaced. <u>Underlined</u>: it was, by a sample of the generator;
the original follows, struck out. Colour your own text:
<code>electra-kernels detect "some text" --model {html.escape(metrics["model"])}</code></p>
{lines}"""


def _errors_section(metrics: dict[str, Any]) -> str:
    errors = metrics["real_word_errors"]
    if "reason" in errors:
        return f"<h2>Real-word errors</h2><p>Not measured: {html.escape(errors['reason'])}.</p>"
    rows = [
        ("the discriminator", f"{errors['auc']:.3f}"),
        ("rarity of the word", f"{errors['auc_word_frequency']:.3f}"),
        ("number of word pieces", f"{errors['auc_word_pieces']:.3f}"),
    ]
    return f"""<h2>Real-word errors</h2>
<p>Synthetic: in {errors["items"]:,} held-out sentences one word was exchanged for another real word that people
confuse it with, of similar frequency. Finding it among
 {errors["words"]:,} words, by the highest score of its pieces:</p>
{html_table(rows, ("scored by", "AUC"))}"""


def _curves(metrics: dict[str, Any]) -> dict[str, bytes]:
    """Name → PNG: what was measured on held-out text on the way."""
    evaluations, baselines = metrics["evaluations"], metrics["baselines"]
    pictures = {"auc": figures.auc_figure(evaluations, baselines["auc_frequency"])}
    if "mlm_loss" in evaluations[-1]:
        pictures["mlm_loss"] = figures.mlm_figure(evaluations, baselines["unigram_entropy"])
        pictures["rtd_loss"] = figures.rtd_figure(evaluations)
    return pictures


def _curves_section(curves: Mapping[str, bytes]) -> str:
    images = "\n".join(image(picture, "learning curve") for picture in curves.values())
    return f'<h2>Learning curves</h2>\n<div class="curves">{images}</div>'


def _step_section(metrics: dict[str, Any]) -> str:
    picture = image(figures.step_figure(metrics["step_seconds"]), "time of one step by part")
    return f"""<h2>Where the time of a step goes</h2>
<div class="curves">{picture}</div>
<p class="note">Median over up to 20 steps after the training, each part forward and backward on its own.
“Head and sampling” is what the ops of electra_kernels do: masking, both heads with their losses, sampling,
replacement.</p>"""
